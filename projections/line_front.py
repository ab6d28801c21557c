"""The line for those who look at it: how long the next jobs of some users have waited."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.identifiers import JobId, UserId
from domain.line import UserInLine
from projections.line import lanes, users, waiting_jobs
from projections.rows import placeholder

LANES_MAX: Final = 250


class LineFront:
    """`generation` is the current one, or an expression that gives it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def users(self, connection: Connection, user_ids: Sequence[UserId]) -> dict[UserId, UserInLine]:
        """How these users stand, as far as they were ever in line."""
        rows = connection.execute(
            sa.select(users).where(
                users.c.generation == self._generation,
                users.c.user_id.in_([user_id.encode() for user_id in user_ids]),
            )
        )
        return {
            UserId(bytes(row.user_id).decode()): UserInLine(
                row.last_served, row.joined, row.waiting, row.running, row.running_limit
            )
            for row in rows
        }

    def oldest(self, connection: Connection) -> JobId | None:
        """The waiting job that was submitted first."""
        found = connection.execute(
            sa.select(waiting_jobs.c.job_id)
            .where(waiting_jobs.c.generation == self._generation)
            .order_by(waiting_jobs.c.job_id)
            .limit(1)
        ).scalar_one_or_none()
        return None if found is None else JobId(found)

    def oldest_of(self, connection: Connection, user_ids: Sequence[UserId]) -> dict[UserId, JobId]:
        """Of each user the oldest of the jobs that are next in their lanes: one look a lane."""
        generation = connection.execute(sa.select(self._generation)).scalar_one_or_none()
        named = connection.execute(
            sa.select(lanes.c.user_id, lanes.c.kind)
            .where(
                lanes.c.generation == generation,
                lanes.c.user_id.in_([user_id.encode() for user_id in user_ids]),
            )
            .limit(LANES_MAX)
        ).all()
        if not named:
            return {}
        mark = placeholder(connection)
        one = (
            "SELECT * FROM (SELECT user_id, job_id"
            f" FROM {waiting_jobs.name} WHERE generation = {mark} AND user_id = {mark}"
            f" AND kind = {mark} ORDER BY reversed_priority, job_id LIMIT 1) AS lane"
        )
        rows = connection.exec_driver_sql(
            " UNION ALL ".join([one] * len(named)),
            tuple(value for user, kind in named for value in (generation, user, kind)),
        )
        oldest: dict[UserId, JobId] = {}
        for user, job_id in rows:
            user_id = UserId(bytes(user).decode())
            oldest[user_id] = JobId(min(job_id, oldest.get(user_id, job_id)))
        return oldest
