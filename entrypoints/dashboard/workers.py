"""The workers on the overview: what they hold and did, and which of them are alive."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from domain.language.identifiers import JobId, WorkerId
from domain.language.moments import from_micros, to_micros
from entrypoints.dashboard.context import DashboardContext, ShownMoment
from entrypoints.service.worker_polls import WorkerPoll, is_alive
from projections.activity.fold import WORKER_KEPT_SECONDS, WorkerLoad

WORKERS_SHOWN: Final = 20
_WORKERS_READ: Final = 1000
_JOBS_PER_WORKER: Final = 5
_MICROS: Final = 1_000_000


class WorkerRow(Struct, frozen=True):
    """A worker, with some of the jobs that it holds, the oldest first."""

    worker: WorkerId
    load: WorkerLoad
    seen_at: datetime  # UTC, by the log's clock: its latest poll, or the latest event of it
    seconds_silent: float  # since then
    is_alive: bool
    jobs: Sequence[JobId] = ()

    @property
    def is_forgotten(self) -> bool:
        return self.load.running <= 0 and self.seconds_silent > WORKER_KEPT_SECONDS


class SeenWorkers(Struct, frozen=True):
    """The workers of the last hour. Living ones come first, then those that died last."""

    rows: Sequence[WorkerRow]  # at most WORKERS_SHOWN
    alive: int  # of all
    dead: int  # likewise
    polls: Sequence[WorkerPoll]  # of the living


def seen_workers(context: DashboardContext, connection: Connection, at: ShownMoment) -> SeenWorkers:
    """Join what the log knows of workers with their polls."""
    polls = context.fairlog.worker_polls.read(connection, at.now)
    loads = context.activity.workers(connection, _WORKERS_READ)
    now = to_micros(at.now)
    never = WorkerLoad(now, 0)
    rows = [
        row
        for worker in dict.fromkeys([*polls, *loads])
        if not (row := _row(context, worker, loads.get(worker, never), polls, now)).is_forgotten
    ]
    rows.sort(
        key=lambda row: (not row.is_alive, not row.is_alive and row.seconds_silent, row.worker)
    )
    shown = rows[:WORKERS_SHOWN]
    busy = [row.worker for row in shown if row.load.running > 0]
    jobs = context.activity.running_jobs(connection, busy, _JOBS_PER_WORKER)
    alive = {row.worker for row in rows if row.is_alive}
    return SeenWorkers(
        [replace(row, jobs=jobs.get(row.worker, ())) for row in shown],
        len(alive),
        len(rows) - len(alive),
        [poll for poll in polls.values() if poll.worker in alive],
    )


def _row(
    context: DashboardContext,
    worker: WorkerId,
    load: WorkerLoad,
    polls: Mapping[WorkerId, WorkerPoll],
    now: int,
) -> WorkerRow:
    silent = max(0, now - load.last_seen) / _MICROS
    if worker in polls:
        silent = min(silent, polls[worker].seconds_ago)
    lease_seconds = context.fairlog.policy.lease_seconds
    lives = is_alive(silent, lease_seconds, holds_jobs=load.running > 0)
    return WorkerRow(worker, load, from_micros(now - int(silent * _MICROS)), silent, lives)
