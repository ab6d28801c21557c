"""Moments: UTC datetimes, and Unix time in whole microseconds, as the log stores it.

Datetimes are made by adding to UNIX_EPOCH, never by `datetime.fromtimestamp`: a library that
patches `datetime` (freezegun) would otherwise return a subclass that msgspec refuses to encode.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)  # Unix time 0
_MICROSECOND: Final = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Convert to Unix time in microseconds, rounded down; negative before 1970."""
    return (moment - UNIX_EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    return UNIX_EPOCH + timedelta(microseconds=micros)


def later(moment: datetime, seconds: float) -> datetime:
    return moment + timedelta(seconds=seconds)


def to_text(moment: datetime) -> str:
    """Return a moment (UTC) as ISO 8601 with a Z."""
    return moment.isoformat().replace("+00:00", "Z")
