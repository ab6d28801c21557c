"""Counts of what is ahead of a waiting job, up to a bound: a queue of a million is not counted."""

from collections.abc import Collection
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.audit.reasons import Count
from domain.fairness.queues import QueueName
from domain.fairness.strides import ORDER_BYTES
from domain.jobs.job import Job
from domain.language.identifiers import UserId
from projections.inline.jobs import jobs, lane_key
from projections.inline.line import lanes, users

COUNTED_MAX: Final = 500
LANES_MAX: Final = 100


class CountsAhead:
    """Counts jobs and users that are served before a job. Counts stop at `COUNTED_MAX`."""

    def __init__(self, line: sa.ColumnElement[int], jobs: sa.ColumnElement[int]) -> None:
        """Take the generations of both projections, or expressions for the current ones."""
        self._generation = line
        self._jobs_generation = jobs

    def jobs(self, connection: Connection, job: Job) -> Count:
        """Count the waiting jobs of the same user, of any kind, that are served before this one."""
        generation = connection.execute(sa.select(self._jobs_generation)).scalar_one_or_none()
        found = 0
        for queue in self._queues(connection, job.user_id):
            lane = [
                jobs.c.generation == generation,
                jobs.c.lane == lane_key(job.user_id.encode(), queue),
            ]
            # Two index ranges, each read in order: an OR might become a scan.
            for before in (
                [jobs.c.place < -job.priority],
                [jobs.c.place == -job.priority, jobs.c.id < job.id],
            ):
                found += _count(connection, sa.select(jobs.c.id).where(*lane, *before))
                if found > COUNTED_MAX:
                    return Count(COUNTED_MAX, is_exact=False)
        return Count(found)

    def users(
        self, connection: Connection, order: int | None, queues: Collection[QueueName] | None
    ) -> Count:
        """Count the users who are served before and have waiting jobs in these queues.

        `order` is the user's `UserInLine.order`; None: the user is not in line. `queues` None: in
        any queue.
        """
        if order is None:
            return Count(0)
        turn = order.to_bytes(ORDER_BYTES)
        if queues is None:
            query = sa.select(users.c.turn).where(
                users.c.generation == self._generation, users.c.turn < turn
            )
        else:
            names = [queue.encode() for queue in queues]
            query = (
                sa.select(lanes.c.turn)  # each user has one of their own
                .where(
                    lanes.c.generation == self._generation,
                    lanes.c.queue.in_(names),
                    lanes.c.turn < turn,
                )
                .distinct()
            )
        found = _count(connection, query)
        return Count(min(found, COUNTED_MAX), is_exact=found <= COUNTED_MAX)

    def _queues(self, connection: Connection, user_id: UserId) -> list[bytes]:
        rows = connection.execute(
            sa.select(lanes.c.queue)
            .where(
                lanes.c.generation == self._generation,
                lanes.c.user_id == user_id.encode(),
                lanes.c.waiting > 0,
            )
            .limit(LANES_MAX)
        )
        return [bytes(queue) for (queue,) in rows]


def _count(connection: Connection, query: "sa.Select[*tuple[Any, ...]]") -> int:
    some = query.limit(COUNTED_MAX + 1).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())
