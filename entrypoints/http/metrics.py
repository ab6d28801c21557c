"""Metrics for Prometheus, of the server's parts, writer, log, jobs, HTTP requests and handlers.

`EdgeApp` measures HTTP requests. Litestar's plugin looks up its metrics by name several times per
request, which costs a third of a submission.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection

from adapters.database.hosts import Hosts
from adapters.log.log_size import LogSize
from adapters.log.outbox import COUNTED_ROWS_MAX
from adapters.writer.write_path import BatchWritten
from domain.jobs.job import State
from domain.language.errors import FairlogError, OutboxUnavailable
from domain.language.identifiers import Kind
from entrypoints.http.held_metrics import HeldBack, held_back_metrics, read_held_back
from entrypoints.http.histogram import Histogram
from entrypoints.http.kind_metrics import (
    KindMetrics,
    OpenJobs,
    open_jobs_metrics,
    read_open_jobs,
)
from entrypoints.http.size_metrics import size_metrics
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.readiness import NEEDED
from fairlog_client.logs.output import output
from fairlog_client.worker.handler_pool import HandlerPool
from projections.queries.oldest_waiting import OldestWaiting
from projections.storage import registry

# Upper bounds of the buckets of histograms.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_MEDIA_TYPE: Final = "text/plain; version=0.0.4"  # Litestar adds the character set
_COMMANDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class StoredMetrics(Struct, frozen=True):
    """The metrics that are read from the database."""

    jobs: Mapping[State, int]  # the number of jobs in each state
    clock_ahead_seconds: float  # the log's time minus the database's clock
    lags: Mapping[str, int]  # events not applied yet, by asynchronous projection
    kinds: Mapping[Kind, OpenJobs]
    held_back: HeldBack
    size: LogSize
    outbox_rows: int | None = None  # that wait, at most COUNTED_ROWS_MAX; None: unknown
    outbox_rejected_rows: int | None = None  # at most COUNTED_ROWS_MAX


class ServerMetrics:
    """The metrics of one application, counted in memory since its start."""

    def __init__(self, fairlog: Fairlog, handlers: HandlerPool | None = None) -> None:
        self._fairlog = fairlog
        self._handlers = handlers  # of the embedded worker, if any
        self._events: Counter[tuple[str, str]] = Counter()  # (type, detail): events
        self._decisions: Counter[tuple[str, bool]] = Counter()  # (scope, allowed): submissions
        self._batch_commands = Histogram(_COMMANDS)
        self._batch_seconds = Histogram(_SECONDS)
        self._requests: dict[tuple[str, str, str], Histogram] = {}  # (method, path, status)
        self._kinds = KindMetrics()
        self._front = OldestWaiting(registry.current("line"), registry.current("jobs"))
        fairlog.writer.observe(self.batch_written)

    def batch_written(self, batch: BatchWritten) -> None:
        """Count a committed batch; called in the writer's thread."""
        self._events.update(batch.events)
        self._decisions.update(batch.decisions)
        self._batch_commands.observe(batch.commands)
        self._batch_seconds.observe(batch.seconds)
        self._kinds.count(batch.ended)

    def request_answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an answer; `seconds` are from the request's head to the end of the answer.

        `path` is the path of the route, with the names of its parameters.
        """
        key = (method, path, str(status))
        histogram = self._requests.get(key)
        if histogram is None:
            histogram = self._requests.setdefault(key, Histogram(_SECONDS))
        histogram.observe(seconds)

    def read_stored(self, connection: Connection) -> StoredMetrics:
        """Read the metrics of the database."""
        log, line = self._fairlog.log, self._fairlog.line
        counts, now = self._fairlog.jobs.counts(connection), log.now(connection)
        settings = self._fairlog.windows.limits_of(connection, [])
        return StoredMetrics(
            counts,
            log.reading(connection).seconds_ahead,
            {
                projector.projection.name: projector.lag(connection)
                for projector in self._fairlog.projector_runner.projectors
            },
            read_open_jobs(connection, line, self._front, now),
            read_held_back(connection, line, settings, counts[State.QUEUED], now),
            self._fairlog.sizes.read(connection),
            *self._outbox_counts(connection),
        )

    def _outbox_counts(self, connection: Connection) -> tuple[int, int] | tuple[()]:
        with contextlib.suppress(OutboxUnavailable):
            return self._fairlog.outbox_table.counts(connection)
        return ()

    def exposition(self, stored: StoredMetrics | None) -> bytes:
        """Return the metrics in the Prometheus text format, stored ones only if given."""
        registry = CollectorRegistry()
        registry.register(_Scrape(self, stored))
        return generate_latest(registry)

    def collect(self, stored: StoredMetrics | None) -> Iterator[Metric]:
        """Generate the metrics, stored ones only if given."""
        yield from self._parts()
        if (hosts := self._fairlog.database.hosts) is not None:
            yield from _hosts(hosts)
        yield from self._writer()
        yield from self._log()
        yield from self._kinds.collect(() if stored is None else stored.kinds)
        if stored is not None:
            yield from _stored(stored)
        yield from self._http()
        if self._handlers is not None:
            yield from _handlers(self._handlers)

    def _parts(self) -> Iterator[Metric]:
        supervisor = self._fairlog.supervisor
        failing = {one.part: one.seconds for one in supervisor.troubles()}
        working = GaugeMetricFamily(
            "fairlog_part_works",
            "1 if this part of the server works, 0 if it fails",
            labels=["part"],
        )
        for part in sorted({*NEEDED, *supervisor.names(), *failing}):
            working.add_metric([part], float(part not in failing))
        yield working
        durations = GaugeMetricFamily(
            "fairlog_part_failing_seconds", "Seconds since a part began to fail", labels=["part"]
        )
        for part, seconds in sorted(failing.items()):
            durations.add_metric([part], seconds)
        yield durations
        yield _counter(
            "fairlog_log_lines_dropped", "Log lines that could not be written", output.dropped
        )

    def _writer(self) -> Iterator[Metric]:
        writer = self._fairlog.writer
        yield _gauge("fairlog_queue_commands", "Commands that wait for an answer", writer.waiting())
        yield _gauge(
            "fairlog_queue_age_seconds",
            "Seconds that the oldest command has waited",
            writer.oldest_seconds(),
        )
        yield _counter("fairlog_writer_retries", "Retries of transactions", writer.stats.retries)
        yield _counter(
            "fairlog_writer_restarts",
            "Starts of the writer process after it had ended",
            writer.stats.restarts,
        )
        yield _histogram("fairlog_batch_commands", "Commands per batch", {(): self._batch_commands})
        yield _histogram(
            "fairlog_batch_seconds",
            "Seconds from taking a batch to its commit",
            {(): self._batch_seconds},
        )

    def _log(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "fairlog_events", "Events appended by this process", labels=["type", "reason"]
        )
        for (name, detail), count in self._events.copy().items():
            events.add_metric([name, detail], count)
        yield events
        decisions = CounterMetricFamily(
            "fairlog_submissions_decided",
            "Submissions decided by this process",
            labels=["scope", "allowed"],
        )
        for (scope, allowed), count in self._decisions.copy().items():
            decisions.add_metric([scope, str(allowed).lower()], count)
        yield decisions

    def _http(self) -> Iterator[Metric]:
        yield _gauge(
            "fairlog_waiting_for_ends",
            "Requests that wait for the end of a job",
            self._fairlog.job_ends.waiting,
        )
        yield _histogram(
            "fairlog_http_request_seconds",
            "Seconds from the head of a request to the end of its answer",
            dict(self._requests),
            ["method", "path", "status"],
        )


class _Scrape(Collector):
    """A collector of the metrics of one scrape."""

    def __init__(self, server: ServerMetrics, stored: StoredMetrics | None) -> None:
        self._server = server
        self._stored = stored

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the registry then collects no metrics on registration."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        return self._server.collect(self._stored)


def _stored(stored: StoredMetrics) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("fairlog_jobs", "Jobs in the log by state", labels=["state"])
    for state, count in stored.jobs.items():
        jobs.add_metric([state], count)
    yield jobs
    yield _gauge(
        "fairlog_clock_ahead_seconds",
        "The log's time minus the database's clock",
        stored.clock_ahead_seconds,
    )
    lags = GaugeMetricFamily(
        "fairlog_projection_lag_events",
        "Events that a projection has not applied yet",
        labels=["projection"],
    )
    for projection, events in stored.lags.items():
        lags.add_metric([projection], events)
    yield lags
    yield from open_jobs_metrics(stored.kinds)
    yield from held_back_metrics(stored.held_back)
    yield from size_metrics(stored.size)
    if stored.outbox_rows is None or stored.outbox_rejected_rows is None:
        return
    yield _gauge(
        "fairlog_outbox_rows",
        f"Rows of the outbox that are not jobs yet, at most {COUNTED_ROWS_MAX}",
        stored.outbox_rows,
    )
    yield _gauge(
        "fairlog_outbox_rejected_rows",
        f"Rows in outbox_rejected, at most {COUNTED_ROWS_MAX}",
        stored.outbox_rejected_rows,
    )


def _hosts(hosts: Hosts) -> Iterator[Metric]:
    in_use = GaugeMetricFamily(
        "fairlog_database_host",
        "1 for the host of the database that is in use, 0 for the others",
        labels=["host"],
    )
    for name in hosts.names:
        in_use.add_metric([name], float(name == hosts.current))
    yield in_use
    yield _counter(
        "fairlog_database_host_switches", "Changes to another host of the database", hosts.switches
    )


def _handlers(handlers: HandlerPool) -> Iterator[Metric]:
    yield _gauge("fairlog_handlers_running", "Handlers that run in this server", handlers.running)
    yield _gauge("fairlog_handlers_hanging", "Abandoned handlers that still run", handlers.hanging)
    given_up = CounterMetricFamily(
        "fairlog_handlers_given_up",
        "Handlers abandoned because they ignored their cancellation",
        labels=["kind"],
    )
    for kind, count in handlers.given_up.copy().items():
        given_up.add_metric([kind], count)
    yield given_up
    yield _gauge(
        "fairlog_handler_processes_stalled",
        "Handler processes whose interpreter is blocked by a handler",
        handlers.stalled,
    )
    yield _counter(
        "fairlog_handler_processes_replaced",
        "Handler processes replaced because of abandoned handlers",
        handlers.replaced,
    )
    yield _counter(
        "fairlog_handler_processes_died", "Handler processes that ended unexpectedly", handlers.died
    )


@get("/metrics", media_type=_MEDIA_TYPE, tags=["health"])
async def metrics(
    server_metrics: NamedDependency[ServerMetrics], fairlog: NamedDependency[Fairlog]
) -> Response[bytes]:
    """Return metrics in the Prometheus text format; those of the database only if it answers."""
    stored = None
    if not any(one.part == "reads" for one in fairlog.supervisor.troubles()):
        read = server_metrics.read_stored
        try:
            stored = await fairlog.read(fairlog.with_saved_rows(read))
        except FairlogError:  # while nothing can be written, rows that are behind say enough
            with contextlib.suppress(FairlogError):
                stored = await fairlog.read(read)
    text = await asyncio.to_thread(server_metrics.exposition, stored)
    return Response(text, media_type=_MEDIA_TYPE)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _histogram(
    name: str, text: str, histograms: dict[Any, Histogram], labels: Sequence[str] = ()
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in histograms.items():
        buckets, total = histogram.buckets()
        family.add_metric(list(values), buckets=buckets, sum_value=total)
    return family
