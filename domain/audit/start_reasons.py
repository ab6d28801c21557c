"""Explains which limits on starts hold a waiting job back: pauses, caps and throttles."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from domain.audit.reasons import Count, Reason, Value, amount, are_running, format_time
from domain.fairness.start_limits import Hold, Starts, hold_of, resumes_at, starts_in_window
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


def hold(limit: StartLimit, now: datetime) -> Hold | None:
    """Return why no job of the subject may start now; None: one may."""
    return hold_of(limit.limits, limit.running, limit.starts, to_micros(now))


def start_reasons(limits: Sequence[StartLimit], ahead: Count, now: datetime) -> Iterator[Reason]:
    """Yield a reason for each limit that holds a job back.

    `ahead` are the jobs of the same user that are served before it.
    """
    for limit in limits:
        code = _CODES[limit.subject.scope]
        numbers = {"running": limit.running, "running_limit": limit.limits.running}
        match hold(limit, now):
            case Hold.PAUSE:
                what = "paused" if limit.limits.paused else "cap"
                yield Reason(f"{code}_{what}", _paused(limit), numbers)
            case Hold.CAP:
                yield Reason(f"{code}_cap", _capped(limit), numbers)
            case Hold.THROTTLE:
                yield _throttled(limit, code, ahead, now)
            case None:
                pass


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
