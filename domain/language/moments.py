"""Moments: UTC datetimes, and the whole microseconds since the epoch that the log stores.

They are made by adding to a real epoch, never by `datetime.fromtimestamp`: a clock library that
patches `datetime` (freezegun) would otherwise hand out a subclass that msgspec refuses to encode.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Whole microseconds since the epoch; exact, negative before 1970."""
    return (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def later(moment: datetime, seconds: float) -> datetime:
    return moment + timedelta(seconds=seconds)
