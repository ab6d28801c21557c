"""Figures for Prometheus: what the writer, the line, the log and this door do.

HTTP is measured by `EdgeApp`: Litestar's plugin looks its metrics up by name several times
a request, which costs a third of what a submission does.
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
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection

from adapters.writer.writer import BatchWritten
from domain.jobs.job import State
from domain.language.errors import FairlogError
from entrypoints.runtime.logging import output
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.readiness import NEEDED
from entrypoints.worker.handler_pool import HandlerPool

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_COMMANDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Observations in cumulative buckets; one thread observes, another may read."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._sum += value
        for index, bound in enumerate(self._bounds):
            if value <= bound:
                self._counts[index] += 1
                return
        self._counts[-1] += 1

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """For the exposition format: (upper bound, observations up to it), and the sum."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, self._sum


class Stored(Struct, frozen=True):
    """What is asked of the database for a scrape."""

    jobs: Mapping[State, int]
    clock_ahead_seconds: float
    behind: Mapping[str, int]  # events not applied yet, by projection


class ServerMetrics:
    """Counts as it goes. One for each app."""

    def __init__(self, fairlog: Fairlog, handlers: HandlerPool | None = None) -> None:
        self._fairlog = fairlog
        self._handlers = handlers  # of the worker inside this server
        self._events: Counter[tuple[str, str]] = Counter()  # (type, detail): events
        self._decisions: Counter[tuple[str, bool]] = Counter()  # (scope, allowed): submissions
        self._batch_commands = Histogram(_COMMANDS)
        self._batch_seconds = Histogram(_SECONDS)
        self._requests: dict[tuple[str, str, str], Histogram] = {}  # (method, path, status)
        fairlog.writer.observe(self.batch_written)

    def batch_written(self, batch: BatchWritten) -> None:
        """Observes the writer; called in its thread."""
        self._events.update(batch.events)
        self._decisions.update(batch.decisions)
        self._batch_commands.observe(batch.commands)
        self._batch_seconds.observe(batch.seconds)

    def request_answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """`path` is the route's, with the names of its parameters."""
        key = (method, path, str(status))
        histogram = self._requests.get(key)
        if histogram is None:
            histogram = self._requests.setdefault(key, Histogram(_SECONDS))
        histogram.observe(seconds)

    def stored(self, connection: Connection) -> Stored:
        return Stored(
            self._fairlog.jobs.counts(connection),
            self._fairlog.log.reading(connection).seconds_ahead,
            {
                follower.projection.name: follower.lag(connection)
                for follower in self._fairlog.following.followers
            },
        )

    def exposition(self, stored: Stored | None) -> bytes:
        """In the Prometheus text format; without what is stored where the database is away."""
        registry = CollectorRegistry()
        registry.register(_Scrape(self, stored))
        return generate_latest(registry)

    def collect(self, stored: Stored | None) -> Iterator[Metric]:
        yield from self._parts()
        yield from self._writer()
        yield from self._log()
        if stored is not None:
            yield from _of_stored(stored)
        yield from self._http()
        if self._handlers is not None:
            yield from _of_handlers(self._handlers)

    def _parts(self) -> Iterator[Metric]:
        supervisor = self._fairlog.supervisor
        failing = {one.part: one.seconds for one in supervisor.troubles()}
        works = GaugeMetricFamily(
            "fairlog_part_works", "1: this part of the server works; 0: it fails", labels=["part"]
        )
        for part in sorted({*NEEDED, *supervisor.names(), *failing}):
            works.add_metric([part], float(part not in failing))
        yield works
        since = GaugeMetricFamily(
            "fairlog_part_failing_seconds", "How long a part has been failing", labels=["part"]
        )
        for part, seconds in sorted(failing.items()):
            since.add_metric([part], seconds)
        yield since
        yield _counter(
            "fairlog_log_lines_dropped", "Log lines that could not be written", output.dropped
        )

    def _writer(self) -> Iterator[Metric]:
        writer = self._fairlog.writer
        yield _gauge("fairlog_queue_commands", "Commands without an answer yet", writer.waiting())
        yield _gauge(
            "fairlog_queue_age_seconds", "How long the oldest has waited", writer.oldest_seconds()
        )
        yield _counter("fairlog_writer_retries", "Transactions tried again", writer.stats.retries)
        yield _histogram(
            "fairlog_batch_commands", "Commands written together", {(): self._batch_commands}
        )
        yield _histogram(
            "fairlog_batch_seconds",
            "From taking a batch to having it on disk",
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
        yield _histogram(
            "fairlog_http_request_seconds",
            "From a request's head to its answer's end",
            dict(self._requests),
            ["method", "path", "status"],
        )


class _Scrape(Collector):
    """The figures of one moment."""

    def __init__(self, figures: ServerMetrics, stored: Stored | None) -> None:
        self._figures = figures
        self._stored = stored

    def describe(self) -> Iterator[Metric]:
        """Nothing is asked when it is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        return self._figures.collect(self._stored)


def _of_stored(stored: Stored) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("fairlog_jobs", "Jobs of all processes", labels=["state"])
    for state, count in stored.jobs.items():
        jobs.add_metric([state], count)
    yield jobs
    yield _gauge(
        "fairlog_clock_ahead_seconds",
        "The log's time less the database's clock",
        stored.clock_ahead_seconds,
    )
    behind = GaugeMetricFamily(
        "fairlog_projection_lag_events", "Events not applied yet", labels=["projection"]
    )
    for projection, events in stored.behind.items():
        behind.add_metric([projection], events)
    yield behind


def _of_handlers(handlers: HandlerPool) -> Iterator[Metric]:
    yield _gauge("fairlog_handlers_running", "Handlers that run here", handlers.running)
    yield _gauge(
        "fairlog_handlers_hanging", "Handlers that did not end, and still run", handlers.hanging
    )
    given_up = CounterMetricFamily(
        "fairlog_handlers_given_up", "Handlers that did not end when told to", labels=["kind"]
    )
    for kind, count in handlers.given_up.copy().items():
        given_up.add_metric([kind], count)
    yield given_up
    yield _gauge(
        "fairlog_handler_processes_stalled",
        "Processes whose interpreter a handler holds",
        handlers.stalled,
    )
    yield _counter(
        "fairlog_handler_processes_replaced",
        "Processes replaced because handlers hung in them",
        handlers.replaced,
    )
    yield _counter(
        "fairlog_handler_processes_died", "Processes that died of themselves", handlers.died
    )


@get("/metrics", tags=["health"])
async def metrics(
    figures: NamedDependency[ServerMetrics], fairlog: NamedDependency[Fairlog]
) -> Response[bytes]:
    """Figures in the Prometheus text format; without those of the database while that is away."""
    stored = None
    if not any(one.part == "reads" for one in fairlog.supervisor.troubles()):
        with contextlib.suppress(FairlogError):
            stored = await fairlog.read(figures.stored)
    text = await asyncio.to_thread(figures.exposition, stored)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _histogram(
    name: str, text: str, found: dict[Any, Histogram], labels: Sequence[str] = ()
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in found.items():
        buckets, total = histogram.buckets()
        family.add_metric(list(values), buckets=buckets, sum_value=total)
    return family
