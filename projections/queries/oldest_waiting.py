"""The front of the line for the dashboard: how long the next jobs of some users have waited."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.fairness.line import UserInLine
from domain.jobs.job import State
from domain.language.identifiers import JobId, UserId
from projections.inline.jobs import STATE_NUMBERS, jobs
from projections.inline.line import lanes, users
from projections.storage.rows import limited, placeholder, union

LANES_MAX: Final = 250


class OldestWaiting:
    """Queries on users in line and on their oldest waiting jobs."""

    def __init__(self, line: sa.ColumnElement[int], jobs: sa.ColumnElement[int]) -> None:
        """Take the generations of both projections, or expressions for the current ones."""
        self._generation = line
        self._jobs_generation = jobs

    def users(self, connection: Connection, user_ids: Sequence[UserId]) -> dict[UserId, UserInLine]:
        """Return the state of these users; one who was never in line is left out."""
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
        """Return the waiting job that was submitted first, or None if no job waits."""
        found = connection.execute(
            sa.select(jobs.c.id)
            .where(
                jobs.c.generation == self._jobs_generation,
                jobs.c.state == STATE_NUMBERS[State.QUEUED],
            )
            .order_by(jobs.c.id)
            .limit(1)
        ).scalar_one_or_none()
        return None if found is None else JobId(found)

    def oldest_of(self, connection: Connection, user_ids: Sequence[UserId]) -> dict[UserId, JobId]:
        """Return for each user the oldest of the jobs that are next in their lanes.

        At most `LANES_MAX` lanes are read, one row of each.
        """
        found = connection.execute(
            sa.select(lanes.c.user_id, lanes.c.kind)
            .where(
                lanes.c.generation == self._generation,
                lanes.c.user_id.in_([user_id.encode() for user_id in user_ids]),
            )
            .limit(LANES_MAX)
        ).all()
        generation = connection.execute(sa.select(self._jobs_generation)).scalar_one_or_none()
        mark = placeholder(connection)
        first = limited(
            connection,
            f"SELECT user_id, id FROM {jobs.name} WHERE generation = {mark} AND user_id = {mark}"
            f" AND kind = {mark} AND place IS NOT NULL ORDER BY place, id LIMIT 1",
        )
        rows = union(connection, [(first, (generation, user, kind)) for user, kind in found])
        oldest: dict[UserId, JobId] = {}
        for user, job_id in rows:
            user_id = UserId(bytes(user).decode())
            oldest[user_id] = JobId(min(job_id, oldest.get(user_id, job_id)))
        return oldest
