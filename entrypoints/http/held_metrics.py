"""Metrics of what limits on starts hold back. The rows read are bounded, whatever is set."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy.engine import Connection

from domain.fairness.line import NO_JOBS
from domain.fairness.queues import kind_of, queue_of
from domain.fairness.start_limits import Hold
from domain.language.identifiers import Kind
from domain.limits.limits import LimitSettings
from entrypoints.use_cases.held_queues import held_queues
from projections.queries.line_queries import LineQueries

QUEUES_READ_MAX: Final = 1000
USERS_COUNTED_MAX: Final = 10_000


class HeldBack(Struct, frozen=True):
    """Waiting jobs and users that limits on starts hold back."""

    jobs: Mapping[Hold, int]  # waiting ones
    throttled_users: int  # at most USERS_COUNTED_MAX


def read_held_back(
    connection: Connection, line: LineQueries, settings: LimitSettings, queued: int, now: datetime
) -> HeldBack:
    """Count waiting jobs of paused, capped and throttled kinds and resources, and throttled users.

    `settings` has all limits that are not a user's, and `queued` is the number of waiting jobs.
    """
    jobs = dict.fromkeys(Hold, 0)
    if settings.everyone.paused:
        jobs[Hold.PAUSE] = queued
    elif settings.kinds or settings.resources:
        queues = line.queues_with_resources(connection, QUEUES_READ_MAX)
        limited = sorted(settings.kinds)[:QUEUES_READ_MAX]
        kinds = line.kinds_named(connection, {*limited, *map(kind_of, queues)})
        others = Counter[Kind]()  # waiting jobs that use resources
        for queue, waiting in queues.items():
            others[kind_of(queue)] += waiting
        for kind in limited:
            waiting = kinds.get(kind, NO_JOBS).waiting - others[kind]
            if waiting > 0:
                queues[queue_of(kind, ())] = waiting
        held = held_queues(connection, line, settings, queues, now, kinds)
        for queue, hold in held.items():
            jobs[hold] += queues[queue]
    return HeldBack(jobs, line.throttled_users(connection, USERS_COUNTED_MAX))


def held_back_metrics(held: HeldBack) -> Iterator[Metric]:
    """Generate the metrics."""
    jobs = GaugeMetricFamily(
        "fairlog_held_jobs",
        "Waiting jobs that a pause of all starts, or a pause, cap or throttle of their kind or of "
        "a resource holds back now, by the first of these reasons that holds; limits of users do "
        "not count, and of the kinds with limits and of the sets of resources the first "
        f"{QUEUES_READ_MAX} do",
        labels=["reason"],
    )
    for hold, number in held.jobs.items():
        jobs.add_metric([hold], number)
    yield jobs
    yield GaugeMetricFamily(
        "fairlog_throttled_users",
        "Users with waiting jobs whose own throttle, or that of their plan or of one of their "
        f"kinds, is used up, at most {USERS_COUNTED_MAX}",
        value=held.throttled_users,
    )
