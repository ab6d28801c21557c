"""Metrics of the database's size, for alerts before the disk is full."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from adapters.log.log_size import LogSize
from domain.language.moments import to_micros


def size_metrics(size: LogSize) -> Iterator[Metric]:
    """Generate the metrics; one whose value is not known has no sample."""
    tables = GaugeMetricFamily(
        "fairlog_table_bytes", "Bytes of a table with its indexes", labels=["table"]
    )
    for table, bytes_ in sorted(size.tables.items()):
        tables.add_metric([table], bytes_)
    yield tables
    oldest = None if size.oldest_at is None else to_micros(size.oldest_at) / 1_000_000
    for name, text, value in (
        ("database_bytes", "Bytes of all tables with their indexes", size.total),
        ("database_growth_bytes_per_day", "Bytes that a day's events add", size.growth_per_day),
        ("database_free_bytes", "Free bytes on the disk of the data", size.free),
        ("database_limit_bytes", "The setting size_limit_bytes", size.limit),
        ("database_days_to_limit", "Days until size_limit_bytes is reached", size.days_left),
        ("log_events", "Events in the database", size.events),
        ("log_events_per_day", "Events of the last day, or of a shorter log", size.events_per_day),
        ("log_oldest_event_timestamp_seconds", "Unix time of the oldest event", oldest),
    ):
        metric = GaugeMetricFamily(f"fairlog_{name}", text)
        if value is not None:
            metric.add_metric([], value)
        yield metric
