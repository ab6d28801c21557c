"""Questions about activity. No answer counts rows: each reads a bounded number of them."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from projections.activity import tables
from projections.activity.fold import MINUTE_SECONDS, UserLoad, WorkerLoad
from projections.activity.metrics import ActivityMetrics, Leading, total, total_leading

_TEN_MINUTES: Final = 600


class Holding(Struct, frozen=True):
    """A worker, and some of the jobs that it holds, the oldest first."""

    worker: WorkerId
    load: WorkerLoad
    jobs: Sequence[JobId]


class ActivityQueries:
    """`generation` is the current one, or an expression that gives it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def series(
        self, connection: Connection, seconds: int, since: int, kind: Kind | None = None
    ) -> list[tuple[int, ActivityMetrics]]:
        """Slots of a length from `since` on, in order: (start, figures); those in which nothing
        happened are left out. Times are seconds since the epoch.
        """
        slots = tables.slots
        rows = connection.execute(
            sa.select(slots.c.start, slots.c.figures)
            .where(
                slots.c.generation == self._generation,
                slots.c.seconds == seconds,
                slots.c.start >= since // seconds * seconds,
                slots.c.kind == (kind or "").encode(),
            )
            .order_by(slots.c.start)
        )
        return [(start, tables.decode_figures(figures)) for start, figures in rows]

    def by_kind(self, connection: Connection, since: int) -> dict[Kind, ActivityMetrics]:
        """Figures of each kind, to ten minutes."""
        slots = tables.slots
        rows = connection.execute(
            sa.select(slots.c.kind, slots.c.figures).where(
                slots.c.generation == self._generation,
                slots.c.seconds == _TEN_MINUTES,
                slots.c.start >= since // _TEN_MINUTES * _TEN_MINUTES,
                slots.c.kind != tables.ALL_KINDS,
            )
        )
        parts: dict[Kind, list[ActivityMetrics]] = {}
        for kind, figures in rows:
            parts.setdefault(Kind(bytes(kind).decode()), []).append(tables.decode_figures(figures))
        return {kind: total(found) for kind, found in parts.items()}

    def leading(self, connection: Connection, since: int) -> Leading:
        """Who came up most, to the minute."""
        slots = tables.slots
        rows = connection.execute(
            sa.select(slots.c.leaders)
            .where(
                slots.c.generation == self._generation,
                slots.c.seconds == MINUTE_SECONDS,
                slots.c.start >= since // MINUTE_SECONDS * MINUTE_SECONDS,
                slots.c.kind == tables.ALL_KINDS,
            )
            .order_by(slots.c.start)
        )
        return total_leading(tables.decode_leading(leaders) for (leaders,) in rows)

    def most_waiting(self, connection: Connection, limit: int) -> list[tuple[UserId, UserLoad]]:
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

    def workers(self, connection: Connection, limit: int, jobs_max: int) -> list[Holding]:
        """Those seen last, each with up to so many of its jobs."""
        workers = tables.workers
        rows = connection.execute(
            sa.select(workers)
            .where(workers.c.generation == self._generation)
            .order_by(workers.c.last_seen.desc())
            .limit(limit)
        )
        return [
            Holding(
                WorkerId(bytes(row.worker).decode()),
                WorkerLoad(
                    row.first_seen,
                    row.last_seen,
                    None if row.server is None else bytes(row.server).decode(),
                    row.running,
                    row.completed,
                    row.failed,
                ),
                self._held(connection, row.worker, jobs_max) if row.running > 0 else (),
            )
            for row in rows.all()
        ]

    def _held(self, connection: Connection, worker: bytes, limit: int) -> list[JobId]:
        jobs = tables.open_jobs
        rows = connection.execute(
            sa.select(jobs.c.job_id)
            .where(jobs.c.generation == self._generation, jobs.c.worker == worker)
            .order_by(jobs.c.job_id)
            .limit(limit)
        )
        return [JobId(job_id) for (job_id,) in rows]
