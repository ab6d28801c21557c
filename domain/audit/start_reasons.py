"""Explains which limits on starts hold a waiting job back: pauses, caps and throttles."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from domain.audit.reasons import Count, Reason, Value, amount, are_running, format_time
from domain.fairness.start_limits import Starts, resumes_at, startable, starts_in_window
from domain.language.events import Scope
from domain.language.moments import from_micros, to_micros
from domain.limits.limits import Limits, Subject


class StartLimit(Struct, frozen=True):
    """The limits of one subject that a job is under, and how much of them is used up."""

    subject: Subject
    limits: Limits
    running: int  # jobs of the subject
    starts: Starts  # of the subject


_CODES: Final = {
    Scope.USER: "user",
    Scope.USER_KIND: "user_kind",
    Scope.KIND: "kind",
    Scope.RESOURCE: "resource",
    Scope.GLOBAL: "all",
    Scope.PLAN: "plan",
}


def holds(limit: StartLimit, now: datetime) -> bool:
    """Return True if no job of the subject may start now."""
    return startable(limit.limits, limit.running, limit.starts, to_micros(now)) <= 0


def start_reasons(limits: Sequence[StartLimit], ahead: Count, now: datetime) -> Iterator[Reason]:
    """Yield a reason for each limit that holds a job back.

    `ahead` are the jobs of the same user that are served before it.
    """
    for limit in limits:
        if not holds(limit, now):
            continue
        code = _CODES[limit.subject.scope]
        if limit.limits.paused or limit.limits.running == 0:
            yield Reason(
                f"{code}_paused" if limit.limits.paused else f"{code}_cap",
                _paused(limit),
                {"running": limit.running, "running_limit": limit.limits.running},
            )
        elif limit.limits.running is not None and limit.running >= limit.limits.running:
            yield Reason(
                f"{code}_cap",
                _capped(limit),
                {"running": limit.running, "running_limit": limit.limits.running},
            )
        else:
            yield _throttled(limit, code, ahead, now)


def _paused(limit: StartLimit) -> str:
    if limit.subject.scope is Scope.GLOBAL:
        return "All starts are paused, until an operator resumes them: fairlog resume."
    if limit.limits.paused:
        return f"{_name(limit.subject)} is paused: no job of it starts until it is resumed."
    return (
        f"{_name(limit.subject)} is paused: at most 0 of its jobs may run at once, until that "
        "limit is raised or cleared."
    )


def _capped(limit: StartLimit) -> str:
    subject, running, most = limit.subject, limit.running, limit.limits.running
    jobs = amount(running, "job")
    if subject.scope is Scope.USER:
        return (
            f"User {subject.user_id!r} has {jobs} running, and at most {most} may run at once: "
            "the next starts when one of them ends."
        )
    whose = "" if subject.scope is Scope.USER_KIND else " of all users together"
    return (
        f"{jobs} of {_name(subject, is_inside=True)} {are_running(running)}, and at most "
        f"{most}{whose} may run at once."
    )


def _throttled(limit: StartLimit, code: str, ahead: Count, now: datetime) -> Reason:
    """Say when the job can start at the earliest, if the user's jobs before it start first."""
    micros, throttle = to_micros(now), limit.limits.throttle
    assert throttle is not None
    used = starts_in_window(limit.limits, limit.starts, micros)
    next_window = resumes_at(limit.limits, limit.running, micros)
    numbers: dict[str, Value] = {
        "started": used,
        "throttle_limit": throttle.limit,
        "throttle_seconds": throttle.seconds,
    }
    have = "has" if used == 1 else "have"
    text = (
        f"{_name(limit.subject)} may start {amount(throttle.limit, 'job')} in each window of "
        f"{throttle.seconds:,} s, and {used:,} {have} started in this one."
    )
    if next_window is None:
        return Reason(f"{code}_throttle", text, numbers)
    is_behind_own = limit.subject.scope is Scope.USER
    windows = ahead.number // throttle.limit if is_behind_own else 0
    earliest = from_micros(next_window + windows * throttle.seconds * 1_000_000)
    behind = f" behind {ahead.of('job', 'jobs')} of the user" if windows else ""
    numbers |= {"earliest_start": earliest, "jobs_ahead": ahead.number}
    return Reason(
        f"{code}_throttle",
        f"{text} It can start at {format_time(earliest)} at the earliest{behind}.",
        numbers,
    )


def _name(subject: Subject, *, is_inside: bool = False) -> str:
    """Name the subject, at the beginning of a sentence or inside one."""
    match subject.scope:
        case Scope.USER:
            name = f"user {subject.user_id!r}"
        case Scope.USER_KIND:
            name = f"the kind {subject.kind!r} of user {subject.user_id!r}"
        case Scope.KIND:
            name = f"the kind {subject.kind!r}"
        case Scope.RESOURCE:
            name = f"the resource {subject.resource!r}"
        case _:
            name = "all users together"
    return name if is_inside else name[0].upper() + name[1:]
