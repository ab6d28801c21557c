"""The log's clock under the control of a test."""

from datetime import UTC, datetime, timedelta
from typing import Final

from domain.language.validation import WINDOW_SECONDS_MAX
from tests.support.given import NOW

NOON: Final = datetime(2026, 1, 31, 12, tzinfo=UTC)
# A rate-limit window of so many seconds hardly ever ends while a test on the machine's own clock
# looks at it: it begins every 31 days, at midnight.
LONGEST_WINDOW: Final = WINDOW_SECONDS_MAX


class ManualClock:
    """A clock that stands still until it is moved, forward or back."""

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def elapsed(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let this much time go by."""
        self._elapsed += seconds
        self.step(seconds)

    def step(self, seconds: float) -> None:
        """Set the wall clock otherwise, while no time goes by."""
        self._now += timedelta(seconds=seconds)


class SteppingClock(ManualClock):
    """A clock that is only set. At each look some time has gone by, so that a writer which looks
    again and again comes to believe a step.
    """

    def elapsed(self) -> float:
        self._elapsed += 0.6
        return self._elapsed
