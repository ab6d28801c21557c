"""Judges the starts in a log by its limits, with arithmetic of its own: throttles and pauses."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from domain.language.events import (
    JobStarted,
    LimitChanged,
    PlanDeleted,
    Recorded,
    Scope,
)
from domain.language.moments import to_micros

_Name = tuple[str, ...]


def assert_starts_are_within_limits(recorded: Sequence[Recorded]) -> None:
    """No job starts that is paused, or that is one too many for a window of a throttle."""
    limits: dict[_Name, LimitChanged] = {}
    since: dict[_Name, int] = {}  # position from which a throttle counts
    started: Counter[tuple[object, ...]] = Counter()
    for one in recorded:
        event = one.event
        match event:
            case LimitChanged():
                name = _name(event)
                before = limits.get(name)
                if event.throttle is not None and (
                    before is None or before.throttle != event.throttle
                ):
                    since[name] = one.position
                limits[name] = event
            case PlanDeleted(plan=plan):
                limits.pop(("plan", plan), None)
            case JobStarted():
                assert not _is_paused(limits.get(("all",))), one
                for subject, name in _subjects(limits, event):
                    limit = limits[name]
                    throttle = limit.throttle
                    if throttle is None:
                        continue
                    window = to_micros(one.recorded_at) // (throttle.seconds * 1_000_000)
                    key = (*subject, throttle.seconds, window, since[name])
                    started[key] += 1
                    assert started[key] <= throttle.limit, (one, limit)
                for user_limit in _pauses(limits, event):
                    assert not user_limit, one
            case _:
                pass


def _name(event: LimitChanged) -> _Name:
    match event.scope:
        case Scope.USER:
            return ("user", event.user_id or "")
        case Scope.USER_KIND:
            return ("user kind", event.user_id or "", event.kind or "")
        case Scope.KIND:
            return ("kind", event.kind or "")
        case Scope.PLAN:
            return ("plan", event.plan or "")
        case Scope.RESOURCE:
            return ("resource", event.resource or "")
        case Scope.GLOBAL:
            return ("all",)


def _is_paused(limit: LimitChanged | None) -> bool:
    return limit is not None and bool(limit.paused)


def _of_user(limits: dict[_Name, LimitChanged], user_id: str) -> list[_Name]:
    """The names that a user's limits come from, the first before the second."""
    own = limits.get(("user", user_id))
    plan = "default" if own is None or own.plan is None else own.plan
    return [name for name in (("user", user_id), ("plan", plan)) if name in limits]


def _said(limits: dict[_Name, LimitChanged], names: Sequence[_Name], field: str) -> Any:
    found = [name for name in names if getattr(limits[name], field) is not None]
    return found[0] if found else None


def _of_resource(limits: dict[_Name, LimitChanged], resource: str) -> _Name | None:
    """What holds for a resource: its own, else the longest prefix that has any limit."""
    candidates = [resource, *(f"{resource[:length]}*" for length in range(len(resource), -1, -1))]
    for candidate in candidates:
        limit = limits.get(("resource", candidate))
        if limit is not None and (
            limit.running is not None or limit.throttle is not None or limit.paused is not None
        ):
            return ("resource", candidate)
    return None


def _subjects(
    limits: dict[_Name, LimitChanged], event: JobStarted
) -> Iterator[tuple[_Name, _Name]]:
    """Yield what a start counts for, and the name of its limits."""
    throttled = _said(limits, _of_user(limits, event.user_id), "throttle")
    if throttled is not None:
        yield ("user", event.user_id), throttled
    for name in (("user kind", event.user_id, event.kind), ("kind", event.kind)):
        if name in limits:
            yield name, name
    for resource in event.resources:
        found = _of_resource(limits, resource)
        if found is not None:
            yield ("resource", resource), found


def _pauses(limits: dict[_Name, LimitChanged], event: JobStarted) -> Iterator[bool]:
    paused = _said(limits, _of_user(limits, event.user_id), "paused")
    if paused is not None:
        yield _is_paused(limits[paused])
    for name in (("user kind", event.user_id, event.kind), ("kind", event.kind)):
        yield _is_paused(limits.get(name))
    for resource in event.resources:
        found = _of_resource(limits, resource)
        yield found is not None and _is_paused(limits[found])
