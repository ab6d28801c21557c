"""The words of schedules: when they are due, and what may come of a due time."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

CRON_CHARACTERS_MAX: Final = 255
SCHEDULE_SECONDS_MAX: Final = 31_622_400  # of an interval and a catch-up window: 366 days
JITTER_SECONDS_MAX: Final = 86_400
SCHEDULE_PAYLOAD_BYTES_MAX: Final = 16 * 1024  # it is part of the schedule's event
BACKFILL_TIMES_MAX: Final = 1_000
CATCH_UP_SECONDS: Final = 3_600  # by default
CATCH_UP_SECONDS_MIN: Final = 10  # less, and a busy moment would skip a time


class Overlap(StrEnum):
    """The rule for a due time while the latest job of the schedule has not ended."""

    SKIP = "skip"  # nothing is submitted
    BUFFER_ONE = "buffer_one"  # one job is submitted when that job has ended; else as `skip`
    ALLOW_ALL = "allow_all"  # a job is submitted
    CANCEL_OTHER = "cancel_other"  # a job is submitted, and that job is cancelled


class Timing(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The timing of a schedule: `cron` or `every_seconds`, exactly one of them."""

    cron: str | None = None  # five fields, by Debian's rules
    every_seconds: int | None = None  # due when Unix time is a multiple of it
    time_zone: str = "UTC"  # of `cron`; an IANA name
    jitter_seconds: int = 0  # a time is put off by up to so much, see `put_off`


class RunCause(StrEnum):
    """The reason why a run of a schedule was decided."""

    TIME = "time"  # a due time came
    BUFFER = "buffer"  # the job ended that a buffered run waited for
    TRIGGER = "trigger"  # somebody asked for it
    BACKFILL = "backfill"  # a backfill reached the due time


class RunOutcome(StrEnum):
    """The result of a run."""

    SUBMITTED = "submitted"  # its job was submitted
    BUFFERED = "buffered"  # it waits until the latest job of the schedule has ended
    OVERLAP = "overlap"  # skipped: the latest job of the schedule had not ended
    MISSED = "missed"  # skipped, with all times before the next one: the catch-up window was over
    DEFERRED = "deferred"  # the user's limits allow it later: it is decided again then
    REFUSED = "refused"  # skipped: the submission was refused
