"""Queues of which no job may start now, because of limits that all users share."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy.engine import Connection

from domain.fairness.line import NO_JOBS, Load
from domain.fairness.queues import QueueName, kind_of, resources_of
from domain.fairness.start_limits import NO_STARTS, Hold, hold_of
from domain.language.identifiers import Kind
from domain.language.moments import to_micros
from domain.limits.limits import NONE, Limits, LimitSettings, Subject
from projections.queries.line_queries import LineQueries

_ORDER: Final = {hold: number for number, hold in enumerate(Hold)}


def held_queues(
    connection: Connection,
    line: LineQueries,
    settings: LimitSettings,
    queues: Collection[QueueName],
    now: datetime,
    kinds: Mapping[Kind, Load] | None = None,
) -> dict[QueueName, Hold]:
    """Return those of the queues whose kind, or one of whose resources, lets no job start now.

    Each with what holds it back, the first of several. `kinds` are the states of kinds that have
    been read already.
    """
    held = _held_subjects(connection, line, settings, queues, to_micros(now), kinds)
    found = {}
    for queue in queues:
        holds = [held[one] for one in _subjects(queue) if one in held]
        if holds:
            found[queue] = min(holds, key=_ORDER.__getitem__)
    return found


def _held_subjects(
    connection: Connection,
    line: LineQueries,
    settings: LimitSettings,
    queues: Collection[QueueName],
    now: int,
    kinds: Mapping[Kind, Load] | None,
) -> dict[Subject, Hold]:
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
    if not limited:
        return {}
    if kinds is None:
        kinds = line.kinds_named(connection, {one.kind for one in limited if one.kind})
    resources = line.resources(connection, [one.resource for one in limited if one.resource])
    throttled = [one for one, limits in limited.items() if limits.throttle is not None]
    starts = line.starts(connection, throttled)
    found = {}
    for subject, limits in limited.items():
        load = resources.get(subject.resource) or kinds.get(subject.kind) or NO_JOBS
        hold = hold_of(limits, load.running, starts.get(subject, NO_STARTS), now)
        if hold is not None:
            found[subject] = hold
    return found


def _subjects(queue: QueueName) -> list[Subject]:
    """Return the kind and the resources of a queue."""
    kind = Subject(kind=kind_of(queue))
    return [kind, *(Subject(resource=name) for name in resources_of(queue))]
