"""The number of jobs that a worker claims before it has slots for them.

Fast handlers end while the next claim is under way, so that their slots would be idle. Slow ones
gain nothing from it, and their jobs would wait here while another worker is idle.
"""

import math
import time
from collections.abc import Callable
from typing import Final

AHEAD_SECONDS: Final = 0.25  # what is claimed ahead of time is enough for so long
AHEAD_OF_LEASE_MAX: Final = 0.05  # the same as a part of a lease
JOBS_PER_SLOT_MAX: Final = 16
UNBEGUN_SECONDS_MAX: Final = 1.0  # a job claimed ahead that waits longer is returned
_DECAY_SECONDS: Final = 0.5  # an attempt that ended so long ago counts 1/e


class FixedPrefetch:
    """A number of jobs that is set by the user. They are not returned, however long they wait."""

    unbegun_seconds_max: float | None = None

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def ended(self) -> None:
        """Do nothing."""

    def reset(self) -> None:
        """Do nothing."""

    def claimable(self, waiting: int, lease_seconds: float) -> int:  # noqa: ARG002 (see below)
        """Return how many jobs to claim ahead of time while so many wait already."""
        return self._jobs - waiting


class AdaptivePrefetch:
    """A number of jobs that follows from the rate at which attempts end on `slots` slots.

    It is the number that ends within AHEAD_SECONDS, and 0 if that is less than one for each slot.
    `now` returns monotonic seconds.
    """

    unbegun_seconds_max: float | None = UNBEGUN_SECONDS_MAX

    def __init__(self, slots: int, now: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._now = now
        self._ended = 0.0  # attempts, of which earlier ones count less
        self._ended_at = now()

    def ended(self) -> None:
        """Count an attempt that has ended."""
        self._decay()
        self._ended += 1

    def reset(self) -> None:
        """Forget the past: jobs claimed ahead of time have waited too long."""
        self._ended = 0.0

    def claimable(self, waiting: int, lease_seconds: float) -> int:
        """Return how many jobs to claim ahead of time while so many wait already: none while more
        than half of them wait, so that a claim is worth its call.
        """
        self._decay()
        seconds = min(AHEAD_SECONDS, lease_seconds * AHEAD_OF_LEASE_MAX)
        jobs = min(int(self._ended / _DECAY_SECONDS * seconds), self._slots * JOBS_PER_SLOT_MAX)
        return 0 if jobs < self._slots or waiting > jobs / 2 else jobs - waiting

    def _decay(self) -> None:
        now = self._now()
        self._ended *= math.exp((self._ended_at - now) / _DECAY_SECONDS)
        self._ended_at = now


Prefetch = FixedPrefetch | AdaptivePrefetch
