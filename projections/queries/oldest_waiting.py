"""The front of the line: how long the next jobs of some users, or of some kinds, have waited."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.fairness.line import UserInLine
from domain.jobs.job import Job, State
from domain.language.identifiers import JobId, Kind, UserId
from projections.inline.job_documents import decode_job
from projections.inline.jobs import STATE_NUMBERS, jobs, lane_key
from projections.inline.line import lanes, users
from projections.queries.line_queries import user_of
from projections.queries.queues import names_of_queues
from projections.storage.rows import Row, limited, placeholder, union

LANES_MAX: Final = 250
LANES_OF_KINDS_MAX: Final = 500  # all kinds together


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
        return {UserId(bytes(row.user_id).decode()): user_of(row) for row in rows}

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
        found = self._lanes(connection, user_ids)
        oldest: dict[UserId, JobId] = {}
        for user, job_id in self._next(connection, found, "user_id, id"):
            user_id = UserId(bytes(user).decode())
            oldest[user_id] = JobId(min(job_id, oldest.get(user_id, job_id)))
        return oldest

    def next_jobs(self, connection: Connection, user_ids: Sequence[UserId]) -> list[Job]:
        """Return the next job of each lane of the users, of at most `LANES_MAX` lanes."""
        found = self._lanes(connection, user_ids)
        return [decode_job(document) for (document,) in self._next(connection, found, "job")]

    def _lanes(
        self, connection: Connection, user_ids: Sequence[UserId]
    ) -> Sequence[Sequence[bytes]]:
        found = connection.execute(
            sa.select(lanes.c.user_id, lanes.c.queue)
            .where(
                lanes.c.generation == self._generation,
                lanes.c.waiting > 0,
                lanes.c.user_id.in_([user_id.encode() for user_id in user_ids]),
            )
            .limit(LANES_MAX)
        )
        return [tuple(row) for row in found]

    def waiting_since(self, connection: Connection, kinds: Sequence[Kind]) -> dict[Kind, datetime]:
        """Return since when the longest waiting job of each kind has waited.

        Only jobs that are next in their lanes count. At most `LANES_OF_KINDS_MAX` lanes are read,
        the same number of each kind: those of the users whose turn is next.
        """
        names = names_of_queues(connection, self._generation, kinds, LANES_OF_KINDS_MAX)
        lanes_max = LANES_OF_KINDS_MAX // max(1, len(names))
        generation = connection.execute(sa.select(self._generation)).scalar_one_or_none()
        mark = placeholder(connection)
        next_lanes = limited(
            connection,
            f"SELECT user_id, queue FROM {lanes.name} WHERE generation = {mark} AND queue = {mark}"
            f" AND waiting > 0 ORDER BY turn LIMIT {lanes_max}",
        )
        found = union(connection, [(next_lanes, (generation, queue)) for queue in names])
        since: dict[Kind, datetime] = {}
        for (document,) in self._next(connection, list(found), "job"):
            job = decode_job(document)
            since[job.kind] = min(job.updated_at, since.get(job.kind, job.updated_at))
        return since

    def _next(
        self, connection: Connection, lanes: Sequence[Sequence[bytes]], columns: str
    ) -> Iterator[Row]:
        """Yield these columns of the next job of each lane, which is a user and a queue."""
        generation = connection.execute(sa.select(self._jobs_generation)).scalar_one_or_none()
        mark = placeholder(connection)
        first = limited(
            connection,
            f"SELECT {columns} FROM {jobs.name} WHERE generation = {mark} AND lane = {mark}"
            " ORDER BY place, id LIMIT 1",
        )
        return union(connection, [(first, (generation, lane_key(*lane))) for lane in lanes])
