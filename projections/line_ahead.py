"""What is ahead of a waiting job, counted up to a bound: never a queue of a million."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.explanation import Count
from domain.identifiers import UserId
from domain.life_cycle import Job
from projections.line import lanes, users, waiting_jobs

COUNTED_MAX: Final = 500
LANES_MAX: Final = 100


class LineAhead:
    """`generation` is the current one, or an expression that gives it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def jobs(self, connection: Connection, job: Job) -> Count:
        """The waiting jobs of the same user, of any kind, that are served before this one."""
        generation = connection.execute(sa.select(self._generation)).scalar_one_or_none()
        found = 0
        for kind in self._kinds(connection, generation, job.user_id):
            lane = [
                waiting_jobs.c.generation == generation,
                waiting_jobs.c.user_id == job.user_id.encode(),
                waiting_jobs.c.kind == kind,
            ]
            place = waiting_jobs.c.reversed_priority
            # Two ranges of the index, each read in its order: a disjunction might be scanned.
            for before in (
                [place < -job.priority],
                [place == -job.priority, waiting_jobs.c.job_id < job.id],
            ):
                found += _count(connection, sa.select(waiting_jobs.c.job_id).where(*lane, *before))
                if found > COUNTED_MAX:
                    return Count(COUNTED_MAX, is_exact=False)
        return Count(found)

    def users(self, connection: Connection, turn: int | None) -> Count:
        """The users in line whose turn is older; None: this one is not in line."""
        if turn is None:
            return Count(0)
        found = _count(
            connection,
            sa.select(users.c.turn).where(
                users.c.generation == self._generation, users.c.turn < turn
            ),
        )
        return Count(min(found, COUNTED_MAX), is_exact=found <= COUNTED_MAX)

    def _kinds(
        self, connection: Connection, generation: int | None, user_id: UserId
    ) -> list[bytes]:
        rows = connection.execute(
            sa.select(lanes.c.kind)
            .where(lanes.c.generation == generation, lanes.c.user_id == user_id.encode())
            .limit(LANES_MAX)
        )
        return [bytes(kind) for (kind,) in rows]


def _count(connection: Connection, query: "sa.Select[*tuple[Any, ...]]") -> int:
    some = query.limit(COUNTED_MAX + 1).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())
