"""Queries on the line: who is next, and the state of a user or a kind."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.fairness.line import KindInLine, UserInLine
from domain.language.identifiers import Kind, UserId
from projections.inline.line import kinds, users


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
        return [(UserId(bytes(row.user_id).decode()), _user(row)) for row in rows]

    def user(self, connection: Connection, user_id: UserId) -> UserInLine:
        """Return the state of a user, which is empty if the user was never in line."""
        row = connection.execute(
            sa.select(users).where(
                users.c.generation == self._generation, users.c.user_id == user_id.encode()
            )
        ).one_or_none()
        return UserInLine() if row is None else _user(row)

    def kind(self, connection: Connection, kind: Kind) -> KindInLine:
        """Return the state of a kind, which is empty if no such job was ever submitted."""
        row = connection.execute(
            sa.select(kinds).where(
                kinds.c.generation == self._generation, kinds.c.kind == kind.encode()
            )
        ).one_or_none()
        return KindInLine() if row is None else _kind(row)

    def waiting_of(self, connection: Connection, named: Sequence[Kind]) -> list[tuple[Kind, int]]:
        """Return the number of waiting jobs of each kind that has any and is below its cap."""
        rows = connection.execute(
            sa.select(kinds).where(
                kinds.c.generation == self._generation,
                kinds.c.kind.in_([kind.encode() for kind in named]),
                kinds.c.waiting > 0,
            )
        )
        states = ((Kind(bytes(row.kind).decode()), _kind(row)) for row in rows)
        return [(kind, state.waiting) for kind, state in states if not state.is_capped]

    def kinds(
        self, connection: Connection, limit: int, after: str = ""
    ) -> list[tuple[Kind, KindInLine]]:
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
    ) -> tuple[list[tuple[Kind, KindInLine]], KindInLine]:
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
        return found, KindInLine(
            int(waiting or 0) - sum(kind.waiting for _, kind in found),
            int(running or 0) - sum(kind.running for _, kind in found),
        )


def _user(row: sa.Row[tuple[object, ...]]) -> UserInLine:
    return UserInLine(row.last_served, row.joined, row.waiting, row.running, row.running_limit)


def _kind(row: sa.Row[tuple[object, ...]]) -> KindInLine:
    return KindInLine(row.waiting, row.running, row.running_limit)
