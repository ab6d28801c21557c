"""Queries on activity. Each reads a bounded number of rows and counts none."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from projections.activity import tables
from projections.activity.fold import MINUTE_SECONDS, UserLoad, WorkerLoad
from projections.activity.metrics import ActivityMetrics, TopCounts, total, total_top_counts
from projections.storage.rows import limited, placeholder, union

_TEN_MINUTES: Final = 600


class ActivityQueries:
    """Queries one generation: the current one, or an expression for it.

    All `since` are Unix time in seconds and inclusive, rounded down to the start of a bucket.
    """

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def series(
        self, connection: Connection, seconds: int, since: int, kind: Kind | None = None
    ) -> list[tuple[int, ActivityMetrics]]:
        """Return start (Unix time in seconds) and metrics of each bucket of a length, in order.

        Buckets without events are left out. `kind` is None for all kinds.
        """
        buckets = tables.buckets
        rows = connection.execute(
            sa.select(buckets.c.start, buckets.c.figures)
            .where(
                buckets.c.generation == self._generation,
                buckets.c.seconds == seconds,
                buckets.c.start >= since // seconds * seconds,
                buckets.c.kind == (kind or "").encode(),
            )
            .order_by(buckets.c.start)
        )
        return [(start, tables.decode_metrics(metrics)) for start, metrics in rows]

    def by_kind(self, connection: Connection, since: int) -> dict[Kind, ActivityMetrics]:
        """Return the metrics of each kind, from buckets of ten minutes."""
        buckets = tables.buckets
        rows = connection.execute(
            sa.select(buckets.c.kind, buckets.c.figures).where(
                buckets.c.generation == self._generation,
                buckets.c.seconds == _TEN_MINUTES,
                buckets.c.start >= since // _TEN_MINUTES * _TEN_MINUTES,
                buckets.c.kind != tables.ALL_KINDS,
            )
        )
        parts: dict[Kind, list[ActivityMetrics]] = {}
        for kind, metrics in rows:
            parts.setdefault(Kind(bytes(kind).decode()), []).append(tables.decode_metrics(metrics))
        return {kind: total(found) for kind, found in parts.items()}

    def top_counts(self, connection: Connection, since: int) -> TopCounts:
        """Return the highest counts, from buckets of a minute."""
        buckets = tables.buckets
        rows = connection.execute(
            sa.select(buckets.c.leaders)
            .where(
                buckets.c.generation == self._generation,
                buckets.c.seconds == MINUTE_SECONDS,
                buckets.c.start >= since // MINUTE_SECONDS * MINUTE_SECONDS,
                buckets.c.kind == tables.ALL_KINDS,
            )
            .order_by(buckets.c.start)
        )
        return total_top_counts(tables.decode_top_counts(counts) for (counts,) in rows)

    def most_waiting(self, connection: Connection, limit: int) -> list[tuple[UserId, UserLoad]]:
        """Return up to `limit` users, the one with the most waiting jobs first."""
        users = tables.users
        rows = connection.execute(
            sa.select(users.c.user_id, users.c.waiting, users.c.running)
            .where(users.c.generation == self._generation, users.c.waiting > 0)
            .order_by(users.c.waiting.desc())
            .limit(limit)
        )
        return [
            (UserId(bytes(user).decode()), UserLoad(waiting, running))
            for user, waiting, running in rows
        ]

    def workers(self, connection: Connection, limit: int) -> dict[WorkerId, WorkerLoad]:
        """Return up to `limit` workers, the one that an event named last first."""
        workers = tables.workers
        rows = connection.execute(
            sa.select(workers)
            .where(workers.c.generation == self._generation)
            .order_by(workers.c.last_seen.desc())
            .limit(limit)
        )
        return {
            WorkerId(bytes(row.worker).decode()): WorkerLoad(
                row.first_seen,
                row.last_seen,
                None if row.server is None else bytes(row.server).decode(),
                row.running,
                row.completed,
                row.failed,
            )
            for row in rows
        }

    def running_jobs(
        self, connection: Connection, workers: Sequence[WorkerId], limit: int
    ) -> dict[WorkerId, list[JobId]]:
        """Return up to `limit` jobs that each of the workers runs, the oldest first."""
        generation = connection.execute(sa.select(self._generation)).scalar_one_or_none()
        mark = placeholder(connection)
        first = limited(
            connection,
            f"SELECT worker, job_id FROM {tables.open_jobs.name} WHERE generation = {mark}"
            f" AND worker = {mark} ORDER BY job_id LIMIT {int(limit)}",
        )
        selects = [(first, (generation, worker.encode())) for worker in workers]
        found: dict[WorkerId, list[JobId]] = {}
        for worker, job_id in union(connection, selects):
            found.setdefault(WorkerId(bytes(worker).decode()), []).append(JobId(job_id))
        return {worker: sorted(jobs) for worker, jobs in found.items()}
