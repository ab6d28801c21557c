"""Overview: whether work flows, the workers, the kinds, and recent failures."""

from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import Redirect
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.fairness.line import KindInLine
from domain.jobs.job import State
from domain.language.identifiers import JobId, Kind
from entrypoints.dashboard import formatting
from entrypoints.dashboard.charts import RANGES, Range
from entrypoints.dashboard.context import HOUR_SECONDS, DashboardContext, ShownMoment
from entrypoints.dashboard.verdict import Situation, verdict
from entrypoints.http.access import key_of
from entrypoints.http.forwarding import prefix_of
from entrypoints.http.strict_json import StrictRequest
from entrypoints.runtime.text import message_of
from projections.activity.metrics import (
    ActivityMetrics,
    highest,
    parse_failure_key,
    quantile,
    total,
)

_WORKERS_SHOWN: Final = 20
_JOBS_PER_WORKER: Final = 5
_KINDS_SHOWN: Final = 30
_KINDS_READ: Final = 1000
_FAILURES_SHOWN: Final = 10
_FINEST: Final = 10


class RecentFailure(Struct, frozen=True):
    kind: str
    reason: str
    message: str
    count: int
    job_id: JobId | None  # of the latest


class KindRow(Struct, frozen=True):
    """A kind of job, with its metrics of the last hour."""

    kind: Kind
    load: KindInLine
    metrics: ActivityMetrics

    @property
    def wait(self) -> float | None:
        return quantile(self.metrics.waits, 0.95)

    @property
    def run(self) -> float | None:
        return quantile(self.metrics.runs, 0.95)

    @property
    def is_consumed(self) -> bool:
        return not self.load.waiting or self.load.running > 0 or self.metrics.started > 0


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
    kinds = _kinds(context, connection, at)
    minute = total(metrics for start, metrics in buckets if start >= at.seconds - 60 - _FINEST)
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
                oldest=formatting.duration(oldest),
                minute=minute,
                minutes=minutes,
                failing=[f"{one.part}: {one.reason}" for one in fairlog.supervisor.troubles()],
                unconsumed=[row.kind for row in kinds if not row.is_consumed],
            )
        ),
        "p50": quantile(minutes.waits, 0.5),
        "p95": quantile(minutes.waits, 0.95),
        "p99": quantile(minutes.waits, 0.99),
        "workers": context.activity.workers(connection, _WORKERS_SHOWN, _JOBS_PER_WORKER),
        "kinds": kinds,
        "failures": _failures(context, connection, at),
        "behind": 0 if following is None else at.position - following.position,
    }


def _kinds(context: DashboardContext, connection: Connection, at: ShownMoment) -> list[KindRow]:
    metrics = context.activity.by_kind(connection, at.seconds - HOUR_SECONDS)
    kinds = context.fairlog.line.kinds(connection, _KINDS_READ)
    rows = [KindRow(kind, load, metrics.get(kind, ActivityMetrics())) for kind, load in kinds]
    rows.sort(key=lambda one: (-one.load.waiting, -one.metrics.started, one.kind))
    return rows[:_KINDS_SHOWN]


def _failures(
    context: DashboardContext, connection: Connection, at: ShownMoment
) -> list[RecentFailure]:
    """Return the failures of the last hour by kind and error, the most frequent first."""
    leading = context.activity.top_counts(connection, at.seconds - HOUR_SECONDS)
    most = highest(leading.failures, _FAILURES_SHOWN)
    positions = [leading.failed_at[key] for key, _ in most if key in leading.failed_at]
    bodies = audit_log.bodies_at(connection, positions)
    jobs = audit_log.jobs_at(connection, positions)
    found = []
    for key, count in most:
        kind, reason, _ = parse_failure_key(key)
        position = leading.failed_at.get(key, 0)
        message = message_of(bodies.get(position)) or reason.replace("_", " ")
        found.append(RecentFailure(kind, reason, message, count, jobs.get(position)))
    return found
