"""Pauses between retries, and which failures are logged.

No retry library is used: each loop here retries for ever, under the supervision of its own task,
and most change what they send from one try to the next. Only the length of a pause is left, and
that is two lines.
"""

import random
import time
from typing import Final

FIRST_SECONDS: Final = 0.1
LOG_AGAIN_SECONDS: Final = 60.0


class Backoff:
    """Exponential backoff with jitter for one operation, so that many workers do not all ask a
    server at once when it is back.
    """

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._failures = 0

    @property
    def is_failing(self) -> bool:
        return self._failures > 0

    def next_pause(self) -> float:
        """Count a failure and return the seconds to wait: half to all of the full pause, which
        doubles from FIRST_SECONDS to `seconds_max`.
        """
        full = min(self._seconds_max, FIRST_SECONDS * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return full * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)

    def reset(self) -> None:
        """Begin again with the shortest pause, after a success."""
        self._failures = 0


class FailureLog:
    """The failures of one operation, of which repeated ones are logged once a minute."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._logged_at = 0.0

    def should_log(self, reason: str) -> bool:
        """Return True for the first failure, for a new reason, and every LOG_AGAIN_SECONDS."""
        now = time.monotonic()
        if reason == self._reason and now - self._logged_at < LOG_AGAIN_SECONDS:
            return False
        self._reason, self._logged_at = reason, now
        return True

    def should_log_recovery(self) -> bool:
        """Record a success. Returns True if the operation had failed before."""
        was, self._reason = self._reason, None
        return was is not None
