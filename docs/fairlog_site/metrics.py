"""The metrics, from what a server with a worker inside shows at /metrics."""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from adapters.log.log_size import LogSize
from entrypoints.http.held_metrics import HeldBack
from entrypoints.http.metrics import StoredMetrics
from fairlog_site.application import application
from fairlog_site.markdown import code, plain, table

_SAMPLES = {"counter": "{}_total", "histogram": "{0}_bucket, {0}_sum, {0}_count"}


def page() -> str:
    return table(["metric", "type", "labels", "meaning"], map(_row, all_metrics()))


def all_metrics() -> Iterator[Metric]:
    with application() as app:
        nothing = StoredMetrics(
            jobs={},
            clock_ahead_seconds=0.0,
            lags={},
            kinds={},
            held_back=HeldBack({}, 0),
            size=LogSize(
                total=0,
                tables={},
                events=0,
                oldest_at=None,
                events_per_day=0,
                free=None,
                limit=None,
            ),
            outbox_rows=0,
            outbox_rejected_rows=0,
        )
        yield from app.metrics.collect(nothing)


def _row(metric: Metric) -> tuple[str, str, str, str]:
    names = _SAMPLES.get(metric.type, "{}").format(metric.name).split(", ")
    labels: tuple[str, ...] = getattr(metric, "_labelnames", ())  # which has no public name
    return (
        ", ".join(map(code, names)),
        metric.type,
        ", ".join(map(code, labels)),
        plain(metric.documentation) + ".",
    )
