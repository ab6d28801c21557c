"""What is counted of a stretch of time: how many of each, how long they took, and who leads.

Everything here is bounded and adds up: the figures of an hour are the sums of its minutes'.
"""

import math
from collections.abc import Iterable, Mapping
from heapq import heapify, heapreplace
from typing import Any, Final

import msgspec
from msgspec import Struct

LEADERS_MAX: Final = 50  # of each kind, in each stretch
_BUCKETS_PER_DOUBLING: Final = 4  # a bucket is 19 % wide

Histogram = dict[int, int]  # by bucket
Leaders = dict[str, int]


class ActivityMetrics(Struct, omit_defaults=True):
    """Of one kind of job, or of all together. Latencies are in buckets of a logarithmic scale."""

    submitted: int = 0
    duplicates: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0  # attempts
    given_up: int = 0  # jobs whose last attempt failed
    requeued: int = 0
    cancelled: int = 0
    refused: int = 0  # submissions over a limit
    waits: Histogram = {}  # from joining the line to the start
    runs: Histogram = {}  # from the start to the end of an attempt, well or badly
    reasons: dict[str, int] = {}  # of failed attempts

    def add(self, other: "ActivityMetrics") -> None:
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _TALLIES:
            tally = getattr(self, name)
            for key, count in getattr(other, name).items():
                tally[key] = tally.get(key, 0) + count

    def in_text(self) -> dict[str, Any]:
        """As JSON has it, where every key is text."""
        fields = {name: getattr(self, name) for name in _COUNTS if getattr(self, name)}
        for name in _TALLIES:
            if tally := getattr(self, name):
                fields[name] = {str(key): count for key, count in tally.items()}
        return fields


_TALLIES: Final = ("waits", "runs", "reasons")
_COUNTS: Final = tuple(name for name in ActivityMetrics.__struct_fields__ if name not in _TALLIES)


class Leading(Struct, omit_defaults=True):
    """Who comes up most in one stretch, of all users together."""

    refused: Leaders = {}  # by user
    submitted: Leaders = {}  # by user
    served: Leaders = {}  # by user
    failures: Leaders = {}  # by kind, reason and digest of the error, see `failure_key`
    failed_at: dict[str, int] = {}  # position of the latest of each of those failures

    def add(self, other: "Leading") -> None:
        for name in ("refused", "submitted", "served", "failures"):
            tally = getattr(self, name)
            for key, count in getattr(other, name).items():
                tally[key] = tally.get(key, 0) + count
        self.failed_at.update(other.failed_at)


class SpaceSaving:
    """Counts, keeping the most frequent: the space-saving algorithm of Metwally, Agrawal and El
    Abbadi (2005).

    A count is never too low, and too high by at most the total divided by LEADERS_MAX.
    """

    def __init__(self, leaders: Leaders) -> None:
        self._leaders = leaders  # changed in place
        self._by_count: list[tuple[int, str]] = []  # a heap; some have been counted again since

    def count(self, key: str, by: int = 1) -> str | None:
        """Returns who was dropped."""
        leaders = self._leaders
        if by < 0:  # in no history that was made by the rules; it would spoil the order
            self._by_count.clear()
        if key in leaders:
            leaders[key] += by
            return None
        if len(leaders) < LEADERS_MAX:
            leaders[key] = by
            return None
        lowest, dropped = self._lowest()
        del leaders[dropped]
        leaders[key] = lowest + by
        heapreplace(self._by_count, (lowest + by, key))
        return dropped

    def _lowest(self) -> tuple[int, str]:
        """Of equal ones the first by name; it is left at the front."""
        heap, leaders = self._by_count, self._leaders
        if not heap:
            heap += [(count, name) for name, count in leaders.items()]
            heapify(heap)
        while heap[0][0] != leaders[heap[0][1]]:
            heapreplace(heap, (leaders[heap[0][1]], heap[0][1]))
        return heap[0]


class TopUsers:
    """Who leads in one stretch, to be counted on."""

    def __init__(self, leading: Leading) -> None:
        self.refused = SpaceSaving(leading.refused)
        self.submitted = SpaceSaving(leading.submitted)
        self.served = SpaceSaving(leading.served)
        self._failures = SpaceSaving(leading.failures)
        self._failed_at = leading.failed_at

    def count_failure(self, key: str, position: int) -> None:
        dropped = self._failures.count(key)
        self._failed_at.pop(dropped or "", None)
        self._failed_at[key] = position


def failure_key(kind: str, reason: str, error_sha256: str | None) -> str:
    return msgspec.json.encode((kind, reason, error_sha256)).decode()


def of_failure_key(key: str) -> tuple[str, str, str | None]:
    """(kind, reason, SHA-256 of the error in hex)"""
    return msgspec.json.decode(key, type=tuple[str, str, str | None])


def first(leaders: Mapping[str, int], limit: int) -> list[tuple[str, int]]:
    """The most frequent first."""
    return sorted(leaders.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]


def bucket_of(seconds: float) -> int:
    return int(math.log2(max(0.0, seconds) * 1000 + 1) * _BUCKETS_PER_DOUBLING)


def put(histogram: Histogram, seconds: float) -> None:
    bucket = bucket_of(seconds)
    histogram[bucket] = histogram.get(bucket, 0) + 1


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """Seconds that so many (0.5, 0.95) did not exceed, to within 10 %; None for no entries."""
    wanted = share * sum(histogram.values())
    reached = 0
    for bucket in sorted(histogram):
        reached += histogram[bucket]
        if reached >= wanted:
            return float((2 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING) - 1) / 1000)
    return None


def total(all_figures: Iterable[ActivityMetrics]) -> ActivityMetrics:
    added = ActivityMetrics()
    for figures in all_figures:
        added.add(figures)
    return added


def total_leading(all_leading: Iterable[Leading]) -> Leading:
    """In order of time."""
    added = Leading()
    for leading in all_leading:
        added.add(leading)
    return added
