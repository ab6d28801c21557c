"""Limits on starts: pauses, caps of running jobs, and throttles.

A throttle counts the starts of its subject in fixed windows by the log's time, from the event that
set it. The count follows from the log alone, so a restart or another server changes nothing.
"""

import math
from enum import StrEnum
from typing import Final

from msgspec import Struct

from domain.limits.limits import Limits


class Starts(Struct, frozen=True, gc=False):
    """The starts of a subject in the latest window of its throttle that had any."""

    since: int  # position of the event that set the throttle
    window_start: int  # Unix time in microseconds
    used: int


NO_STARTS: Final = Starts(0, 0, 0)


def counted(limits: Limits, starts: Starts, now: int) -> Starts:
    """Return the count after one more start at `now`, Unix time in microseconds."""
    used = starts_in_window(limits, starts, now)
    return Starts(limits.throttle_since or 0, _window_start(limits, now), used + 1)


def starts_in_window(limits: Limits, starts: Starts, now: int) -> int:
    """Return how many starts the throttle's window of `now` has."""
    is_current = (starts.since, starts.window_start) == (
        limits.throttle_since or 0,
        _window_start(limits, now),
    )
    return starts.used if is_current else 0


def startable(limits: Limits, running: int, starts: Starts, now: int) -> float:
    """Return how many more jobs of the subject may start at `now`."""
    if limits.paused:
        return 0
    free = math.inf if limits.running is None else limits.running - running
    if limits.throttle is not None:
        free = min(free, limits.throttle.limit - starts_in_window(limits, starts, now))
    return max(0, free)


class Hold(StrEnum):
    """The reason why limits hold the jobs of a subject back; of several, the first one counts."""

    PAUSE = "pause"
    CAP = "cap"
    THROTTLE = "throttle"


def hold_of(limits: Limits, running: int, starts: Starts, now: int) -> Hold | None:
    """Return why no job of the subject may start at `now`; None: one may."""
    if startable(limits, running, starts, now) > 0:
        return None
    if limits.paused or limits.running == 0:
        return Hold.PAUSE
    is_capped = limits.running is not None and running >= limits.running
    return Hold.CAP if is_capped else Hold.THROTTLE


def resumes_at(limits: Limits, running: int, now: int) -> int | None:
    """Return when a subject of which nothing may start now may start jobs because of the time.

    None: never because of the time alone. Both times are Unix time in microseconds.
    """
    throttle = limits.throttle
    if limits.paused or throttle is None or throttle.limit == 0:
        return None
    if limits.running is not None and running >= limits.running:
        return None
    return window_end(limits, now)


def window_end(limits: Limits, now: int) -> int:
    """Return the end, exclusive, of the throttle's window of `now`.

    Both times are Unix time in microseconds.
    """
    assert limits.throttle is not None
    return _window_start(limits, now) + limits.throttle.seconds * 1_000_000


def _window_start(limits: Limits, now: int) -> int:
    assert limits.throttle is not None
    length = limits.throttle.seconds * 1_000_000
    return now // length * length
