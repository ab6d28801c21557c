"""Pauses between tries of what may soon work again: doubling, with jitter, never longer than a few
seconds, so that many workers neither hammer a server that comes back nor come all at once.
"""

import random
import time
from typing import Final

FIRST_SECONDS: Final = 0.1
LOG_AGAIN_SECONDS: Final = 60.0


class Backoff:
    """One for each thing that is tried."""

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._failures = 0

    @property
    def is_failing(self) -> bool:
        return self._failures > 0

    def next_pause(self) -> float:
        """Seconds to wait after one more failure: from half of the full pause to all of it."""
        full = min(self._seconds_max, FIRST_SECONDS * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return full * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)

    def reset(self) -> None:
        """It went well."""
        self._failures = 0


class FailureLog:
    """One for each thing that is tried: when its failures are worth a line in the log."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._logged_at = 0.0

    def should_log(self, reason: str) -> bool:
        """Return True for the first failure, for one of another reason, and once a minute."""
        now = time.monotonic()
        if reason == self._reason and now - self._logged_at < LOG_AGAIN_SECONDS:
            return False
        self._reason, self._logged_at = reason, now
        return True

    def should_log_recovery(self) -> bool:
        """It went well. Returns True if it had not before."""
        was, self._reason = self._reason, None
        return was is not None
