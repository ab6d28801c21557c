"""The due times of a schedule. Nothing here reads a clock.

Due times of `cron` are those of the package cronsim, which has the rules of Debian's cron where
clocks change: a time of day that is skipped is due at once after the gap, one that comes twice is
due the first time, and an expression for every hour or every few minutes follows the time that
passes. They depend on the database of time zones, so each is computed once, by a decision, and
recorded.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from domain.language.errors import InvalidInput
from domain.language.identifiers import ScheduleName
from domain.language.moments import from_micros, later, to_micros
from domain.language.schedules import (
    CRON_CHARACTERS_MAX,
    JITTER_SECONDS_MAX,
    SCHEDULE_SECONDS_MAX,
    Timing,
)

_SECOND: Final = 1_000_000
_FIELDS: Final = "minute, hour, day of the month, month, day of the week"
_ZONE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+\-]*(/[A-Za-z0-9_+\-]+)*")


def next_time(timing: Timing, after: datetime) -> datetime | None:
    """Return the first due time after a moment, UTC; None: none comes within 50 years."""
    if timing.every_seconds is not None:
        length = timing.every_seconds * _SECOND
        return from_micros((to_micros(after) // length + 1) * length)
    assert timing.cron is not None, timing
    try:
        for found in CronSim(timing.cron, after.astimezone(_zone(timing.time_zone))):
            due_at = from_micros(to_micros(found.astimezone(UTC)))
            if due_at > after:  # cronsim may begin with the first of two equal times of day
                return due_at
    except OverflowError:
        return None
    return None


def first_time(timing: Timing, start: datetime) -> datetime | None:
    """Return the first due time at a moment or after it."""
    return next_time(timing, start - timedelta(microseconds=1))


def put_off(timing: Timing, name: ScheduleName, due_at: datetime) -> datetime:
    """Return when a due time is decided: later by a part of the jitter that follows from the name
    and the time, so that every server, and every look at it, gives the same.
    """
    if not timing.jitter_seconds:
        return due_at
    digest = sha256(f"{name}\0{to_micros(due_at)}".encode()).digest()
    fraction = int.from_bytes(digest[:6]) / 2**48
    return later(due_at, round(fraction * timing.jitter_seconds, 3))


def checked_timing(timing: Timing, now: datetime) -> Timing:
    """Return a timing that can be. `now` is about the present. Raises `InvalidInput`."""
    if (timing.cron is None) == (timing.every_seconds is None):
        raise InvalidInput(
            'Send either cron, like "30 3 * * *", or every_seconds, like 900; not both.'
        )
    if timing.every_seconds is not None and not (1 <= timing.every_seconds <= SCHEDULE_SECONDS_MAX):
        raise InvalidInput(
            f"every_seconds is a whole number from 1 to {SCHEDULE_SECONDS_MAX} (366 days)."
        )
    if not 0 <= timing.jitter_seconds <= JITTER_SECONDS_MAX:
        raise InvalidInput(
            f"jitter_seconds is a whole number from 0 to {JITTER_SECONDS_MAX} (a day)."
        )
    _check_zone(timing.time_zone)
    if timing.cron is not None:
        _check_cron(timing.cron)
        if next_time(timing, now) is None:
            raise InvalidInput(
                f"cron is never due: no day fits {timing.cron!r}. The day of the month and the "
                "month exclude each other; change one of them."
            )
    return timing


def _check_cron(cron: str) -> None:
    if len(cron) > CRON_CHARACTERS_MAX:
        raise InvalidInput(
            f"cron has at most {CRON_CHARACTERS_MAX} characters; use several schedules."
        )
    fields = len(cron.split())
    if not cron.isascii() or fields != 5:  # noqa: PLR2004 (of cron)
        hint = " For times by the second, use every_seconds." if fields == 6 else ""  # noqa: PLR2004
        raise InvalidInput(
            f"cron has five fields ({_FIELDS}), like 30 3 * * 1-5; this has {fields}.{hint}"
        )
    try:
        CronSim(cron, from_micros(0))
    except CronSimError as error:
        problem = str(error).removeprefix("Bad ")
        raise InvalidInput(
            f"cron cannot be read at its {problem}: {cron!r}. The fields are {_FIELDS}; each is *, "
            "a number, a range (1-5), a list (1,15) or steps (*/10). If the day is right, no such "
            "day is in the month."
        ) from None


def _check_zone(name: str) -> None:
    try:
        if _ZONE.fullmatch(name):
            _zone(name)
            return
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise InvalidInput(
        f"There is no time zone {name!r}: name one of the IANA database, like Europe/Berlin, "
        "America/New_York or UTC."
    )


@lru_cache(maxsize=1000)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
