"""Observations in buckets, in the form of Prometheus."""

from collections.abc import Sequence


class Histogram:
    """Observations in buckets. One thread may observe while another reads.

    `bounds` are the inclusive upper bounds of the buckets, ascending; one more bucket has no bound.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Add an observation."""
        self._sum += value
        for index, bound in enumerate(self._bounds):
            if value <= bound:
                self._counts[index] += 1
                return
        self._counts[-1] += 1

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return (upper bound, observations up to it) for each bucket, and the sum of all."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, self._sum
