"""One global limit over all partitions, by quotas that a coordinator leases to them.

The limit is the number of submissions that all partitions together may admit in a fixed window. The
coordinator leases parts of it, never more than the limit in a window. A partition admits only what
it holds, and asks for more when a submission comes and it holds nothing. A lease is for one window
and ends with it, so that no clock but the partition's own decides whether it still holds.

The limit is therefore never exceeded. It may be missed: a partition refuses because the coordinator
has nothing left, while others hold quota that they do not use up before the window ends. The one
that refuses holds nothing, and each other one holds less than a lease. So in a window at most
`(partitions - 1) * (lease - 1)` submissions are refused that one counter would have admitted.
"""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from tests.simulation.arrivals import Window

# A lease that adapts has at most an equal share of what is left, divided by this.
_SHARE_DIVISOR: Final = 4


class Leases(Struct, frozen=True):
    """The rule by which the coordinator decides how much to lease.

    A lease that adapts has no more than the partition has used in the window so far, so that it is
    small where little is submitted, and shrinks with what is left. It has at least 1.
    """

    largest: int  # submissions in one lease
    adapts: bool = False  # else each has `largest`, if so much is left


class Coordinator:
    """The quota of the current window that is not leased yet."""

    def __init__(self, limit: int, leases: Leases, partitions: int) -> None:
        self.requests = 0
        self._limit = limit
        self._leases = leases
        self._partitions = partitions
        self._left = limit

    def begin_window(self) -> None:
        self._left = self._limit

    def lease(self, used: int) -> int:
        """Return further quota for a partition that has used so much; 0 if none is left."""
        self.requests += 1
        size = self._leases.largest
        if self._leases.adapts:
            share = self._left // (self._partitions * _SHARE_DIVISOR)
            size = max(1, min(size, share, used))
        granted = min(size, self._left)
        self._left -= granted
        return granted


class Partition:
    """The quota that one partition holds."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.held = 0
        self._used = 0
        self._coordinator = coordinator
        self._is_used_up = False  # the coordinator's quota of this window

    def begin_window(self) -> None:
        self.held = 0  # what is left of the window before ends with it
        self._used = 0
        self._is_used_up = False

    def admit(self, count: int) -> int:
        """Return how many of so many submissions are admitted."""
        admitted = 0
        while admitted < count:
            if not self.held and not self._is_used_up:
                self.held = self._coordinator.lease(self._used)
                self._is_used_up = not self.held
            if not self.held:
                break
            used = min(self.held, count - admitted)
            self.held -= used
            self._used += used
            admitted += used
        return admitted


class QuotaResult(Struct, frozen=True):
    """What came of one rule over all windows."""

    leases: Leases
    over: int  # submissions admitted beyond the limit, in all windows
    used_up: int  # windows in which the limit refused submissions, or would have
    missed_max: int  # submissions refused in a window although the limit had room for them
    missed_mean: float  # the same, over the windows that `used_up` counts
    bound: int  # of `missed_max`
    requests_per_second: float  # to the coordinator


def simulate(
    windows: Sequence[Window],
    limit: int,
    leases: Leases,
    new_partition: Callable[[Coordinator], Partition] = Partition,
) -> QuotaResult:
    """Admit the demand of all windows under the limit, and compare with one counter for all.

    Within a second the partitions come one after the other, each second another one first.
    """
    number = len(windows[0][0])
    coordinator = Coordinator(limit, leases, number)
    partitions = [new_partition(coordinator) for _ in range(number)]
    over = 0
    missed = []
    for window in windows:
        coordinator.begin_window()
        for partition in partitions:
            partition.begin_window()
        admitted = 0
        for second, counts in enumerate(window):
            for turn in range(number):
                at = (second + turn) % number
                admitted += partitions[at].admit(counts[at])
        over += max(0, admitted - limit)
        wanted = sum(map(sum, window))
        if wanted > limit:
            missed.append(max(0, limit - admitted))
    return QuotaResult(
        leases,
        over=over,
        used_up=len(missed),
        missed_max=max(missed, default=0),
        missed_mean=sum(missed) / max(1, len(missed)),
        bound=bound(number, limit, leases),
        requests_per_second=coordinator.requests / sum(map(len, windows)),
    )


def bound(partitions: int, limit: int, leases: Leases) -> int:
    """Return the most submissions that are refused in a window although the limit has room."""
    largest = leases.largest
    if leases.adapts:
        largest = max(1, min(largest, limit // (partitions * _SHARE_DIVISOR)))
    return (partitions - 1) * (largest - 1)
