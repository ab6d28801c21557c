"""Pauses between tries of what may soon work again: doubling, with jitter, never longer than a few
seconds, so that many workers neither hammer a server that comes back nor come all at once.
"""

import random
from typing import Final

FIRST_SECONDS: Final = 0.1


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
