"""Metrics by kind of job, for alerts: waiting and running jobs, failures and run times.

Users name kinds, so the number of labels is limited.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy.engine import Connection

from domain.fairness.line import Load
from domain.jobs.ended_attempts import DONE, EndedAttempt
from domain.language.events import FailureReason
from domain.language.identifiers import Kind
from entrypoints.http.histogram import Histogram
from projections.queries.line_queries import LineQueries
from projections.queries.oldest_waiting import OldestWaiting

KINDS_MAX: Final = 100  # that have labels of their own
OTHERS: Final = Kind("(others)")  # the label of all further kinds together
# Upper bounds of the buckets of run times, in seconds.
_RUN_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


class OpenJobs(Struct, frozen=True):
    """The waiting and running jobs of a kind."""

    load: Load
    waiting_seconds: float  # of the longest waiting one


def read_open_jobs(
    connection: Connection, line: LineQueries, front: OldestWaiting, now: datetime
) -> dict[Kind, OpenJobs]:
    """Return the open jobs of the KINDS_MAX kinds with the most, and of all others as `OTHERS`."""
    kinds, others = line.busiest_kinds(connection, KINDS_MAX)
    since = front.waiting_since(connection, [kind for kind, load in kinds if load.waiting])
    found = {
        kind: OpenJobs(load, max(0.0, (now - since.get(kind, now)).total_seconds()))
        for kind, load in kinds
    }
    if others.waiting or others.running or OTHERS in found:
        named = found.get(OTHERS, OpenJobs(Load(), 0.0))
        load = Load(others.waiting + named.load.waiting, others.running + named.load.running)
        found[OTHERS] = OpenJobs(load, named.waiting_seconds)
    return found


class KindMetrics:
    """The attempts that ended, counted in memory since the start of the process.

    One thread may count while another reads.
    """

    def __init__(self) -> None:
        self._attempts: Counter[tuple[Kind, str]] = Counter()  # by kind and outcome
        self._failed_jobs: Counter[Kind] = Counter()
        self._run_seconds: dict[Kind, Histogram] = {}

    def count(self, ended: Sequence[EndedAttempt]) -> None:
        """Count attempts."""
        for attempt in ended:
            kind = attempt.kind
            if kind not in self._run_seconds:
                if len(self._run_seconds) >= KINDS_MAX:
                    kind = OTHERS
                self._run_seconds.setdefault(kind, Histogram(_RUN_SECONDS))
            self._attempts[kind, attempt.outcome] += 1
            self._failed_jobs[kind] += attempt.is_last
            if attempt.seconds is not None:
                self._run_seconds[kind].observe(attempt.seconds)

    def collect(self, known: Iterable[Kind]) -> Iterator[Metric]:
        """Generate the metrics.

        Kinds that are `known` to exist have a zero before their first attempt has ended: Prometheus
        sees no increase in a counter that begins with one.
        """
        counted = self._run_seconds.copy()
        labels = list(dict.fromkeys([*counted, *known]))[:KINDS_MAX]
        outcomes = (DONE, *FailureReason)
        attempts = CounterMetricFamily(
            "fairlog_kind_attempts",
            "Attempts that ended, recorded by this process, by outcome: done, or why they failed",
            labels=["kind", "outcome"],
        )
        zeros = {(kind, str(outcome)): 0 for kind in labels for outcome in outcomes}
        for (kind, outcome), count in (zeros | self._attempts.copy()).items():
            attempts.add_metric([kind, outcome], count)
        yield attempts
        failed = CounterMetricFamily(
            "fairlog_kind_jobs_failed",
            "Jobs whose last attempt failed, recorded by this process",
            labels=["kind"],
        )
        for kind, count in (dict.fromkeys(labels, 0) | self._failed_jobs.copy()).items():
            failed.add_metric([kind], count)
        yield failed
        runs = HistogramMetricFamily(
            "fairlog_kind_run_seconds",
            "Seconds from the begin of a handler, or from the claim if no begin was reported, "
            "to the outcome of its attempt; lost attempts do not count",
            labels=["kind"],
        )
        for kind, histogram in counted.items():
            buckets, total = histogram.buckets()
            runs.add_metric([kind], buckets=buckets, sum_value=total)
        yield runs


def open_jobs_metrics(kinds: Mapping[Kind, OpenJobs]) -> Iterator[Metric]:
    """Generate the metrics of open jobs."""
    waiting = GaugeMetricFamily(
        "fairlog_kind_jobs_waiting", "Queued jobs; scheduled ones do not count", labels=["kind"]
    )
    running = GaugeMetricFamily(
        "fairlog_kind_jobs_running",
        "Jobs that workers hold, and ended ones whose handler may still run",
        labels=["kind"],
    )
    oldest = GaugeMetricFamily(
        "fairlog_kind_oldest_waiting_seconds",
        "Seconds since the longest waiting job joined the line, of those that are next for their "
        "users",
        labels=["kind"],
    )
    for kind, open_jobs in kinds.items():
        waiting.add_metric([kind], open_jobs.load.waiting)
        running.add_metric([kind], open_jobs.load.running)
        oldest.add_metric([kind], open_jobs.waiting_seconds)
    yield from (waiting, running, oldest)
