"""Overview: whether work flows, the workers, the kinds, and recent failures."""

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import Redirect
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.fairness.line import Load
from domain.jobs.job import State
from domain.language.errors import OutboxUnavailable
from domain.language.events import FailureReason
from domain.language.identifiers import JobId, Kind
from domain.limits.limits import Limits
from entrypoints.dashboard.charts import RANGES, Range
from entrypoints.dashboard.context import HOUR_SECONDS, DashboardContext, ShownMoment
from entrypoints.dashboard.pauses import PAUSES_SHOWN, read_pauses
from entrypoints.dashboard.verdict import Situation, UnservedKind, verdict
from entrypoints.dashboard.workers import seen_workers
from entrypoints.http.access import key_of
from entrypoints.http.forwarding import prefix_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.runtime.text import message_of, text_of
from entrypoints.service.worker_polls import WorkerPoll, nearest_kind
from projections.activity.metrics import (
    ActivityMetrics,
    highest,
    parse_failure_key,
    quantile,
    total,
)

_KINDS_SHOWN: Final = 30
_KINDS_READ: Final = 1000
_FAILURES_SHOWN: Final = 6
_REJECTED_SHOWN: Final = 6
# Types of the errors that no worker reported, see `domain.jobs.failure`, by reason.
_UNREPORTED: Final = {
    FailureReason.TIMED_OUT: "TimeoutError",
    FailureReason.LEASE_LOST: "LeaseLost",
    FailureReason.SERVER_RESTARTED: "ServerRestarted",
}
_FINEST: Final = 10


class RecentFailure(Struct, frozen=True):
    """Failed attempts of one kind with the same error."""

    kind: str
    message: str
    text: str  # by which the jobs page finds failed jobs with this error; empty: by kind alone
    count: int
    job_id: JobId | None  # of the latest
    at: datetime | None  # when the latest failed, UTC


class KindRow(Struct, frozen=True):
    """A kind of job, with its metrics of the last hour."""

    kind: Kind
    load: Load
    limits: Limits
    metrics: ActivityMetrics
    is_unserved: bool  # jobs wait, and no living worker asks for the kind

    @property
    def wait(self) -> float | None:
        return quantile(self.metrics.waits, 0.95)

    @property
    def run(self) -> float | None:
        return quantile(self.metrics.runs, 0.95)

    @property
    def is_paused(self) -> bool:
        return _is_paused(self.limits)


def _is_paused(limits: Limits) -> bool:
    return limits.paused is True or limits.running == 0


@get("/")
async def overview(
    request: StrictRequest,
    context: NamedDependency[DashboardContext],
    span: FromQuery[Range] = "15m",  # noqa: ARG001 (the page's own script reads it)
) -> Response[Any]:
    """Show the overview; to a key that sees only its own jobs, show these."""
    if key_of(request) is not None:
        return Redirect(f"{prefix_of(request.scope)}/jobs")
    return await context.show(
        request,
        "overview",
        "Overview",
        lambda connection, at: _read(context, connection, at),
    )


def _read(context: DashboardContext, connection: Connection, at: ShownMoment) -> dict[str, object]:
    fairlog = context.fairlog
    counts = fairlog.jobs.counts(connection)
    oldest_id = context.front.oldest(connection)
    oldest_at = audit_log.times_at(connection, [oldest_id] if oldest_id else [])
    oldest = (at.now - oldest_at[oldest_id]).total_seconds() if oldest_id in oldest_at else None
    buckets = context.activity.series(connection, _FINEST, at.seconds - 300)
    minutes = total(metrics for _, metrics in buckets)
    workers = seen_workers(context, connection, at)
    kinds = _kinds(context, connection, at, workers.polls)
    minute = total(metrics for start, metrics in buckets if start >= at.seconds - 60 - _FINEST)
    pauses = read_pauses(context, connection)
    following = fairlog.projector_runner.of("activity").checkpoint(connection)
    return {
        "spans": [(key, name) for key, (name, _, _) in RANGES.items()],
        "states": [(state, counts[state]) for state in State],
        "oldest": oldest,
        "oldest_id": oldest_id,
        "verdict": verdict(
            Situation(
                waiting=counts[State.QUEUED],
                running=counts[State.RUNNING],
                oldest_seconds=oldest,
                minute=minute,
                minutes=minutes,
                workers=workers.alive,
                failing=[f"{one.part}: {one.reason}" for one in fairlog.supervisor.troubles()],
                unserved=[
                    UnservedKind(row.kind, row.load.waiting, nearest_kind(row.kind, workers.polls))
                    for row in kinds
                    if row.is_unserved
                ],
                paused=[(one.name, one.waiting) for one in pauses if one.waiting],
            )
        ),
        "pauses": pauses,
        "pauses_shown": PAUSES_SHOWN,
        "p50": quantile(minutes.waits, 0.5),
        "p95": quantile(minutes.waits, 0.95),
        "p99": quantile(minutes.waits, 0.99),
        "workers": workers,
        "kinds": kinds[:_KINDS_SHOWN],
        "failures": _failures(context, connection, at),
        "size": fairlog.sizes.read(connection),
        "hosts": fairlog.database.hosts,
        **_outbox(context, connection),
        "behind": 0 if following is None else at.position - following.position,
    }


def _outbox(context: DashboardContext, connection: Connection) -> dict[str, object]:
    """Read how many rows of the outbox wait, and the newest rejected ones; nothing if its tables
    cannot be read.
    """
    outbox = context.fairlog.outbox_table
    with contextlib.suppress(OutboxUnavailable):
        waiting, _ = outbox.counts(connection)
        return {
            "outbox_rows": waiting,
            "rejected": outbox.newest_rejected(connection, _REJECTED_SHOWN),
        }
    return {"outbox_rows": 0, "rejected": []}


def _kinds(
    context: DashboardContext,
    connection: Connection,
    at: ShownMoment,
    polls: Sequence[WorkerPoll],
) -> list[KindRow]:
    """Return the kinds, those with the most waiting jobs first. `polls`: of living workers."""
    metrics = context.activity.by_kind(connection, at.seconds - HOUR_SECONDS)
    asked = {kind for poll in polls for kind in poll.kinds or ()}
    is_any_asked = any(poll.kinds is None for poll in polls)
    limits = context.fairlog.windows.limits_of(connection, [])
    rows = [
        KindRow(
            kind,
            load,
            limits.of_kind(kind),
            metrics.get(kind, ActivityMetrics()),
            is_unserved=load.waiting > 0
            and not (load.running or is_any_asked or kind in asked)
            and not _is_paused(limits.of_kind(kind)),
        )
        for kind, load in context.fairlog.line.kinds(connection, _KINDS_READ)
    ]
    rows.sort(key=lambda one: (-one.load.waiting, -one.metrics.started, one.kind))
    return rows


def _failures(
    context: DashboardContext, connection: Connection, at: ShownMoment
) -> list[RecentFailure]:
    """Return the failures of the last hour by kind and error, the most frequent first."""
    leading = context.activity.top_counts(connection, at.seconds - HOUR_SECONDS)
    most = highest(leading.failures, _FAILURES_SHOWN)
    positions = [leading.failed_at[key] for key, _ in most if key in leading.failed_at]
    bodies = audit_log.bodies_at(connection, positions)
    jobs = audit_log.jobs_at(connection, positions)
    times = audit_log.times_at(connection, positions)
    found = []
    for key, count in most:
        kind, reason, _ = parse_failure_key(key)
        position = leading.failed_at.get(key, 0)
        body = bodies.get(position)
        text = _UNREPORTED.get(FailureReason(reason), "") if body is None else text_of(body)
        found.append(
            RecentFailure(
                kind,
                message_of(body) or reason.replace("_", " "),
                text,
                count,
                jobs.get(position),
                times.get(position),
            )
        )
    return found
