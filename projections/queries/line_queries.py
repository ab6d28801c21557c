"""Queries on the line: who is next, and the state of a user or a kind."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.fairness.line import Load, UserInLine
from domain.fairness.queues import SEPARATOR, QueueName
from domain.fairness.start_limits import Starts
from domain.language.identifiers import Kind, ResourceName, UserId
from domain.limits.limits import Subject
from projections.inline.line import (
    key_of_starts,
    kinds,
    lanes,
    queues,
    resources,
    starts,
    subject_of_starts,
    users,
)


class LineQueries:
    """Queries one generation of the line: the current one, or an expression for it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def next_users(self, connection: Connection, limit: int) -> list[tuple[UserId, UserInLine]]:
        """Return up to `limit` users in line, the next to be served first."""
        rows = connection.execute(
            sa.select(users)
            .where(users.c.generation == self._generation, users.c.turn.is_not(None))
            .order_by(users.c.turn)
            .limit(limit)
        )
        return [(UserId(bytes(row.user_id).decode()), user_of(row)) for row in rows]

    def user(self, connection: Connection, user_id: UserId) -> UserInLine:
        """Return the state of a user, which is empty if the user was never in line."""
        row = connection.execute(
            sa.select(users).where(
                users.c.generation == self._generation, users.c.user_id == user_id.encode()
            )
        ).one_or_none()
        return UserInLine() if row is None else user_of(row)

    def kind(self, connection: Connection, kind: Kind) -> Load:
        """Return the state of a kind, which is empty if no such job was ever submitted."""
        return self.kinds_named(connection, [kind]).get(kind, Load())

    def kinds_named(self, connection: Connection, named: Collection[Kind]) -> dict[Kind, Load]:
        """Return the state of each of these kinds of which jobs were ever submitted."""
        rows = connection.execute(
            sa.select(kinds).where(
                kinds.c.generation == self._generation,
                kinds.c.kind.in_([kind.encode() for kind in named]),
            )
        )
        return {Kind(bytes(row.kind).decode()): _kind(row) for row in rows}

    def queues_with_resources(self, connection: Connection, limit: int) -> dict[QueueName, int]:
        """Return up to `limit` queues of jobs that use resources, with their waiting jobs."""
        rows = connection.execute(
            sa.select(queues)
            .where(queues.c.generation == self._generation)
            .order_by(queues.c.kind, queues.c.resources)
            .limit(limit)
        )
        found = {}
        for row in rows:
            name = SEPARATOR.join((bytes(row.kind).decode(), bytes(row.resources).decode()))
            found[QueueName(name)] = int(row.waiting)
        return found

    def user_kind(self, connection: Connection, user_id: UserId, kind: Kind) -> Load:
        """Return a user's jobs of a kind that wait or run."""
        named = kind.encode()
        rows = connection.execute(
            sa.select(lanes.c.waiting, lanes.c.running).where(
                lanes.c.generation == self._generation,
                lanes.c.user_id == user_id.encode(),
                sa.or_(
                    lanes.c.queue == named,
                    sa.and_(lanes.c.queue > named + b"\0", lanes.c.queue < named + b"\1"),
                ),
            )
        )
        found = Load()
        for waiting, running in rows:
            found = found.plus(waiting, running)
        return found

    def resource(self, connection: Connection, name: ResourceName) -> Load:
        """Return the jobs that use a resource and wait or run."""
        return self.resources(connection, [name]).get(name, Load())

    def resources(
        self, connection: Connection, names: Collection[ResourceName]
    ) -> dict[ResourceName, Load]:
        """Return the jobs that use each of these resources and wait or run, where there are any."""
        rows = connection.execute(
            sa.select(resources).where(
                resources.c.generation == self._generation,
                resources.c.resource.in_([name.encode() for name in names]),
            )
        )
        return {
            ResourceName(bytes(row.resource).decode()): Load(row.waiting, row.running)
            for row in rows
        }

    def starts(
        self, connection: Connection, subjects: Collection[Subject]
    ) -> dict[Subject, Starts]:
        """Return the starts of those subjects in the windows of their throttles."""
        keys = {key_of_starts(subject): subject for subject in subjects}
        rows = connection.execute(
            sa.select(starts).where(
                starts.c.generation == self._generation, starts.c.subject.in_(list(keys))
            )
        )
        return {
            keys[bytes(row.subject)]: Starts(row.since, row.window_start, row.used) for row in rows
        }

    def first_starts(self, connection: Connection, limit: int) -> dict[Subject, Starts]:
        """Return up to `limit` counts of starts: of resources, then of kinds, then of users."""
        rows = connection.execute(
            sa.select(starts)
            .where(starts.c.generation == self._generation)
            .order_by(starts.c.subject)
            .limit(limit)
        )
        return {
            subject_of_starts(bytes(row.subject)): Starts(row.since, row.window_start, row.used)
            for row in rows
        }

    def users_to_update(self, connection: Connection, now: int, limit: int) -> list[UserId]:
        """Return the users of whom a throttle has a new window by now, the earliest first.

        `now` is Unix time in microseconds.
        """
        rows = connection.execute(
            sa.select(users.c.user_id)
            .where(users.c.generation == self._generation, users.c.resumes_at <= now)
            .order_by(users.c.resumes_at)
            .limit(limit)
        )
        return [UserId(bytes(user).decode()) for (user,) in rows]

    def throttled_users(self, connection: Connection, most: int) -> int:
        """Return the number of users whom a throttle of theirs holds back, at most `most`."""
        held = (
            sa.select(users.c.resumes_at)
            .where(users.c.generation == self._generation, users.c.resumes_at.is_not(None))
            .limit(most)
            .subquery()
        )
        found: int = connection.execute(sa.select(sa.func.count()).select_from(held)).scalar_one()
        return found

    def next_update(self, connection: Connection) -> int | None:
        """Return when the next throttle of a user has a new window; None: none holds anybody back.

        Unix time in microseconds.
        """
        found: int | None = connection.execute(
            sa.select(sa.func.min(users.c.resumes_at)).where(users.c.generation == self._generation)
        ).scalar_one()
        return found

    def waiting_users(
        self, connection: Connection, after: UserId, limit: int, *, only_held: bool
    ) -> list[UserId]:
        """Return up to `limit` users with waiting jobs, by name, after another one.

        `only_held`: those who are not in line.
        """
        query = sa.select(users.c.user_id).where(
            users.c.generation == self._generation,
            users.c.user_id > after.encode(),
            users.c.waiting > 0,
        )
        if only_held:
            query = query.where(users.c.turn.is_(None))
        rows = connection.execute(query.order_by(users.c.user_id).limit(limit))
        return [UserId(bytes(user).decode()) for (user,) in rows]

    def waiting_of(self, connection: Connection, named: Sequence[Kind]) -> list[tuple[Kind, int]]:
        """Return the number of waiting jobs of each kind that has any, whether they may start or
        not.
        """
        rows = connection.execute(
            sa.select(kinds).where(
                kinds.c.generation == self._generation,
                kinds.c.kind.in_([kind.encode() for kind in named]),
                kinds.c.waiting > 0,
            )
        )
        states = ((Kind(bytes(row.kind).decode()), _kind(row)) for row in rows)
        return [(kind, state.waiting) for kind, state in states]

    def kinds(self, connection: Connection, limit: int, after: str = "") -> list[tuple[Kind, Load]]:
        """Return up to `limit` kinds that were ever submitted, by name, with their state."""
        rows = connection.execute(
            sa.select(kinds)
            .where(kinds.c.generation == self._generation, kinds.c.kind > after.encode())
            .order_by(kinds.c.kind)
            .limit(limit)
        )
        return [(Kind(bytes(row.kind).decode()), _kind(row)) for row in rows]

    def busiest_kinds(
        self, connection: Connection, limit: int
    ) -> tuple[list[tuple[Kind, Load]], Load]:
        """Return up to `limit` kinds, most open jobs first, and the sum of all the others."""
        open_jobs = kinds.c.waiting + kinds.c.running
        rows = connection.execute(
            sa.select(kinds)
            .where(kinds.c.generation == self._generation)
            .order_by(open_jobs.desc(), kinds.c.kind)
            .limit(limit)
        )
        found = [(Kind(bytes(row.kind).decode()), _kind(row)) for row in rows]
        waiting, running = connection.execute(
            sa.select(sa.func.sum(kinds.c.waiting), sa.func.sum(kinds.c.running)).where(
                kinds.c.generation == self._generation
            )
        ).one()
        return found, Load(
            int(waiting or 0) - sum(kind.waiting for _, kind in found),
            int(running or 0) - sum(kind.running for _, kind in found),
        )


def user_of(row: sa.Row[tuple[object, ...]]) -> UserInLine:
    """Return the user of a row of the table of users."""
    return UserInLine(
        row.last_served,
        row.joined,
        row.waiting,
        row.running,
        int.from_bytes(row.pass_value),
        row.waiting > 0 and row.turn is None,
        row.resumes_at,
    )


def _kind(row: sa.Row[tuple[object, ...]]) -> Load:
    return Load(row.waiting, row.running)
