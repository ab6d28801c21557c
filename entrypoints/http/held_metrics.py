"""Metrics of what limits on starts hold back. The rows read are bounded, whatever is set."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy.engine import Connection

from domain.fairness.line import Load
from domain.fairness.queues import QueueName, kind_of, queue_of, resources_of
from domain.fairness.start_limits import NO_STARTS, Starts, startable
from domain.language.identifiers import Kind
from domain.language.moments import to_micros
from domain.limits.limits import NONE, Limits, LimitSettings, Subject
from projections.queries.line_queries import LineQueries

QUEUES_READ_MAX: Final = 1000
USERS_COUNTED_MAX: Final = 10_000
PAUSE, CAP, THROTTLE = REASONS = ("pause", "cap", "throttle")


class HeldBack(Struct, frozen=True):
    """Waiting jobs and users that limits on starts hold back."""

    jobs: Mapping[str, int]  # waiting ones, by reason
    throttled_users: int  # at most USERS_COUNTED_MAX


def read_held_back(
    connection: Connection, line: LineQueries, settings: LimitSettings, queued: int, now: datetime
) -> HeldBack:
    """Count waiting jobs of paused, capped and throttled kinds and resources, and throttled users.

    `settings` has all limits that are not a user's, and `queued` is the number of waiting jobs.
    """
    jobs = dict.fromkeys(REASONS, 0)
    if settings.everyone.paused:
        jobs[PAUSE] = queued
    elif settings.kinds or settings.resources:
        queues = line.queues_with_resources(connection, QUEUES_READ_MAX)
        limited = sorted(settings.kinds)[:QUEUES_READ_MAX]
        kinds = line.kinds_named(connection, {*limited, *map(kind_of, queues)})
        for kind in limited:
            others = sum(waiting for queue, waiting in queues.items() if kind_of(queue) == kind)
            waiting = kinds.get(kind, Load()).waiting - others
            if waiting > 0:
                queues[queue_of(kind, ())] = waiting
        held = _held_subjects(connection, line, settings, queues, kinds, to_micros(now))
        for queue, waiting in queues.items():
            reasons = {held[one] for one in _subjects(queue) if one in held}
            if reasons:
                jobs[min(reasons, key=REASONS.index)] += waiting
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
    for reason, number in held.jobs.items():
        jobs.add_metric([reason], number)
    yield jobs
    yield GaugeMetricFamily(
        "fairlog_throttled_users",
        "Users with waiting jobs whose own throttle, or that of their plan or of one of their "
        f"kinds, is used up, at most {USERS_COUNTED_MAX}",
        value=held.throttled_users,
    )


def _held_subjects(
    connection: Connection,
    line: LineQueries,
    settings: LimitSettings,
    queues: Iterable[QueueName],
    kinds: Mapping[Kind, Load],
    now: int,
) -> dict[Subject, str]:
    """Return the kinds and resources of queues of which no job may start, each with the reason."""
    limited: dict[Subject, Limits] = {}
    for queue in queues:
        for subject in _subjects(queue):
            limits = (
                settings.of_resource(subject.resource)
                if subject.resource
                else settings.of_kind(subject.kind)
            )
            if limits is not NONE:
                limited[subject] = limits
    resources = line.resources(connection, [one.resource for one in limited if one.resource])
    throttled = [one for one, limits in limited.items() if limits.throttle is not None]
    starts = line.starts(connection, throttled)
    found = {}
    for subject, limits in limited.items():
        load = resources.get(subject.resource) or kinds.get(subject.kind) or Load()
        reason = _reason(limits, load.running, starts.get(subject, NO_STARTS), now)
        if reason is not None:
            found[subject] = reason
    return found


def _subjects(queue: QueueName) -> list[Subject]:
    """Return the kind and the resources of a queue."""
    kind = Subject(kind=kind_of(queue))
    return [kind, *(Subject(resource=name) for name in resources_of(queue))]


def _reason(limits: Limits, running: int, starts: Starts, now: int) -> str | None:
    """Return why no job of a subject may start; None: one may."""
    if startable(limits, running, starts, now) > 0:
        return None
    if limits.paused or limits.running == 0:
        return PAUSE
    return CAP if limits.running is not None and running >= limits.running else THROTTLE
