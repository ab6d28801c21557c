"""A priority queue whose priorities change, and that is read in order without being emptied."""

import heapq
from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
P = TypeVar("P", bound=Any)  # two priorities of a queue can be compared

_STALE_MAX: Final = 64  # entries without a key, beyond as many as there are keys


class PriorityQueue(Generic[K, P]):
    """Keys by priority, the lowest first. Two keys may not have the same priority.

    A change leaves the former entry in the heap, and whoever reads skips it. Entries are removed
    when more than half of them are stale, so that a change takes O(log n), and so does a read of
    the next key.
    """

    __slots__ = ("_heap", "_priorities")

    def __init__(self) -> None:
        self._priorities: dict[K, P] = {}
        self._heap: list[tuple[P, K]] = []

    def __len__(self) -> int:
        return len(self._priorities)

    def __contains__(self, key: object) -> bool:
        return key in self._priorities

    def put(self, key: K, priority: P) -> None:
        """Add a key, or change its priority."""
        if self._priorities.get(key) != priority:
            self._priorities[key] = priority
            heapq.heappush(self._heap, (priority, key))
            if len(self._heap) > 2 * len(self._priorities) + _STALE_MAX:
                self._heap = [(priority, key) for key, priority in self._priorities.items()]
                heapq.heapify(self._heap)

    def discard(self, key: K) -> None:
        self._priorities.pop(key, None)

    def first(self) -> P | None:
        """Return the lowest priority; None if there are no keys."""
        heap, priorities = self._heap, self._priorities
        while heap and priorities.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def in_order(self) -> Iterator[tuple[P, K]]:
        """Yield each key with its priority. The queue may not change until the caller stops."""
        self.first()  # removes stale entries from the front
        heap, priorities = self._heap, self._priorities
        latest: P | None = None
        # The children of an entry of a heap come after it, so the next entry in order is always a
        # child of one that was yielded.
        following = [(heap[0], 0)] if heap else []
        while following:
            (priority, key), at = heapq.heappop(following)
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(heap):
                    heapq.heappush(following, (heap[child], child))
            # A key that was removed and put back has two equal entries.
            if priority != latest and priorities.get(key) == priority:
                latest = priority
                yield priority, key
