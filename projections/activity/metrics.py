"""Metrics of a time bucket: counts, latency histograms and top users.

All are bounded in size, and additive: the metrics of an hour are the sum of those of its minutes.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heapify, heapreplace
from typing import Any, Final

import msgspec
from msgspec import Struct

COUNTERS_MAX: Final = 50  # of a space-saving sketch
_BUCKETS_PER_DOUBLING: Final = 4  # a latency bucket is 19 % wide

Histogram = dict[int, int]  # number of latencies, by latency bucket
Counts = dict[str, int]


class ActivityMetrics(Struct, omit_defaults=True):
    """Metrics of one kind of job or of all kinds.

    Latency buckets have a logarithmic scale, see `latency_bucket`.
    """

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
    runs: Histogram = {}  # from the start to the end of an attempt
    reasons: dict[str, int] = {}  # number of failed attempts, by reason

    def add(self, other: "ActivityMetrics") -> None:
        """Add the counts of `other` to this one."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _COUNTS_BY_KEY:
            counts = getattr(self, name)
            for key, count in getattr(other, name).items():
                counts[key] = counts.get(key, 0) + count

    def as_json_fields(self) -> dict[str, Any]:
        """Return the fields that are not empty, as JSON needs them: keys are text."""
        fields = {name: getattr(self, name) for name in _COUNTS if getattr(self, name)}
        for name in _COUNTS_BY_KEY:
            if counts := getattr(self, name):
                fields[name] = {str(key): count for key, count in counts.items()}
        return fields


_COUNTS_BY_KEY: Final = ("waits", "runs", "reasons")
_COUNTS: Final = tuple(
    name for name in ActivityMetrics.__struct_fields__ if name not in _COUNTS_BY_KEY
)


class TopCounts(Struct, omit_defaults=True):
    """The highest counts of a time bucket, over all kinds; approximate, see `SpaceSaving`."""

    refused: Counts = {}  # by user
    submitted: Counts = {}  # by user
    served: Counts = {}  # by user
    failures: Counts = {}  # by kind, reason and digest of the error, see `failure_key`
    failed_at: dict[str, int] = {}  # position of the latest of each of those failures

    def add(self, other: "TopCounts") -> None:
        """Add the counts of a later time bucket to this one."""
        for name in ("refused", "submitted", "served", "failures"):
            counts = getattr(self, name)
            for key, count in getattr(other, name).items():
                counts[key] = counts.get(key, 0) + count
        self.failed_at.update(other.failed_at)


class SpaceSaving:
    """Counts the most frequent keys, with the space-saving algorithm.

    A count is never too low, and too high by at most the total divided by COUNTERS_MAX. Source:
    Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
    Streams" (2005).
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts  # changed in place
        self._by_count: list[tuple[int, str]] = []  # a heap; counts in it may be outdated

    def count(self, key: str, by: int = 1) -> str | None:
        """Count a key; return the key that was dropped for it, if any."""
        counts = self._counts
        if by < 0:  # no legal history has it; the heap's order would be lost
            self._by_count.clear()
        if key in counts:
            counts[key] += by
            return None
        if len(counts) < COUNTERS_MAX:
            counts[key] = by
            return None
        lowest, dropped = self._lowest()
        del counts[dropped]
        counts[key] = lowest + by
        heapreplace(self._by_count, (lowest + by, key))
        return dropped

    def _lowest(self) -> tuple[int, str]:
        """Return the lowest count and its key, the first by name; it stays on top of the heap."""
        heap, counts = self._by_count, self._counts
        if not heap:
            heap += [(count, name) for name, count in counts.items()]
            heapify(heap)
        while heap[0][0] != counts[heap[0][1]]:
            heapreplace(heap, (counts[heap[0][1]], heap[0][1]))
        return heap[0]


class TopUsers:
    """Sketches that count into a `TopCounts`."""

    def __init__(self, top: TopCounts) -> None:
        self.counts = top
        self.refused = SpaceSaving(top.refused)
        self.submitted = SpaceSaving(top.submitted)
        self.served = SpaceSaving(top.served)
        self._failures = SpaceSaving(top.failures)
        self._failed_at = top.failed_at

    def count_failure(self, key: str, position: int) -> None:
        """Count a failure (`failure_key`) that the event at `position` reports."""
        dropped = self._failures.count(key)
        self._failed_at.pop(dropped or "", None)
        self._failed_at[key] = position


def failure_key(kind: str, reason: str, error_sha256: str | None) -> str:
    """Return the key that failures of one kind, reason and error (SHA-256 in hex) share."""
    return msgspec.json.encode((kind, reason, error_sha256)).decode()


def parse_failure_key(key: str) -> tuple[str, str, str | None]:
    """Return kind, reason and SHA-256 of the error in hex."""
    return msgspec.json.decode(key, type=tuple[str, str, str | None])


def highest(counts: Mapping[str, int], limit: int) -> list[tuple[str, int]]:
    """Return up to `limit` entries, the highest count first, equal counts by name."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]


def latency_bucket(seconds: float) -> int:
    """Return the number of the histogram's bucket, from 0; negative latencies count as 0."""
    return int(math.log2(max(0.0, seconds) * 1000 + 1) * _BUCKETS_PER_DOUBLING)


def observe(histogram: Histogram, latencies: Iterable[int]) -> None:
    """Add latencies, in microseconds, to a histogram."""
    for micros, count in Counter(latencies).items():
        bucket = latency_bucket(micros / 1_000_000)
        histogram[bucket] = histogram.get(bucket, 0) + count


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """Return a quantile in seconds, to within 10 %; None for an empty histogram.

    `share` is between 0 and 1: 0.95 for the 95th percentile.
    """
    wanted = share * sum(histogram.values())
    reached = 0
    for bucket in sorted(histogram):
        reached += histogram[bucket]
        if reached >= wanted:
            return float((2 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING) - 1) / 1000)
    return None


def total(all_metrics: Iterable[ActivityMetrics]) -> ActivityMetrics:
    """Return the sum of metrics."""
    added = ActivityMetrics()
    for metrics in all_metrics:
        added.add(metrics)
    return added


def total_top_counts(all_counts: Iterable[TopCounts]) -> TopCounts:
    """Return the sum of counts, which have to come in order of time."""
    added = TopCounts()
    for top in all_counts:
        added.add(top)
    return added
