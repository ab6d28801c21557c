"""The metrics that the charts draw, as columns."""

from typing import Any, Final, Literal

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec import Struct
from sqlalchemy.engine import Connection

from entrypoints.dashboard.context import DashboardContext, ShownMoment
from projections.activity.metrics import ActivityMetrics, quantile

Range = Literal["15m", "1h", "6h", "3d"]
RANGES: Final[dict[Range, tuple[str, int, int]]] = {  # name, seconds a point, seconds in all
    "15m": ("15 minutes", 10, 900),
    "1h": ("1 hour", 10, 3_600),
    "6h": ("6 hours", 60, 21_600),
    "3d": ("3 days", 600, 259_200),
}
_SHARE_MIN: Final = 0.4  # of the newest point's time; before it, the rate is noise
_NOTHING: Final = ActivityMetrics()


class Series(Struct):
    """Columns of equal length. Rates are per second; latencies are in seconds, None: none."""

    at: list[int]  # UTC, Unix seconds
    submitted: list[float] = []
    started: list[float] = []
    completed: list[float] = []
    failed: list[float] = []
    refused: list[float] = []
    wait_p50: list[float | None] = []
    wait_p95: list[float | None] = []
    run_p50: list[float | None] = []
    run_p95: list[float | None] = []


@get("/charts.json")
async def charts(
    request: Request[Any, Any, Any],
    context: NamedDependency[DashboardContext],
    span: FromQuery[Range] = "15m",
) -> Response[str]:
    """Return the metrics of the last `span`."""
    series = await context.answer(
        request,
        lambda connection, at: msgspec.json.encode(_read(context, connection, at, span)).decode(),
    )
    return Response(series, media_type="application/json")


def _read(
    context: DashboardContext, connection: Connection, at: ShownMoment, span: Range
) -> Series:
    _, seconds, length = RANGES[span]
    since = (at.seconds - length) // seconds * seconds
    found = dict(context.activity.series(connection, seconds, since))
    starts = list(range(since, at.seconds + 1, seconds))
    if at.seconds - starts[-1] < _SHARE_MIN * seconds:
        starts.pop()
    series = Series(starts)
    for start in starts:
        metrics = found.get(start, _NOTHING)
        took = min(seconds, max(1, at.seconds - start))
        for name in ("submitted", "started", "completed", "failed", "refused"):
            getattr(series, name).append(round(getattr(metrics, name) / took, 3))
        series.wait_p50.append(quantile(metrics.waits, 0.5))
        series.wait_p95.append(quantile(metrics.waits, 0.95))
        series.run_p50.append(quantile(metrics.runs, 0.5))
        series.run_p95.append(quantile(metrics.runs, 0.95))
    return series
