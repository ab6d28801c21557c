"""The latest events of the log in memory, so that those who follow it need not read them."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic

from msgspec import Struct
from sqlalchemy.engine import Connection

from projections.following.async_projection import E, Read

EVENTS_KEPT: Final = 20_000  # some 20 MB


# Returns the database's hash of the log's chain up to a position; None: it has no event there.
HashAt = Callable[[Connection, int], bytes | None]


class _Addition(Struct, Generic[E], frozen=True):
    """Events that were added together; their positions have no gap."""

    first: int  # position
    events: Sequence[E]
    size: int  # of all events
    hash: bytes  # of the log's chain up to the last event; empty: not known


class RecentEvents(Generic[E]):
    """One thread adds, others may read meanwhile.

    The additions that came first are removed while there are more than `events_max` events, or
    their `size_of` sums up to more than `bytes_max`. At least the latest event stays.
    """

    def __init__(
        self,
        events_max: int = EVENTS_KEPT,
        bytes_max: int | None = None,
        size_of: Callable[[E], int] = lambda _: 0,
    ) -> None:
        self._additions: deque[_Addition[E]] = deque()  # each continues the one before
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._events = 0
        self._bytes = 0

    def add(self, events: Sequence[E], last_hash: bytes = b"") -> None:
        """Add events that follow each other. If they do not follow the latest, all others go.

        `last_hash` is that of the log's chain up to the last one, which `or_read` needs.
        """
        if self._additions and self._additions[-1].events[-1].position + 1 != events[0].position:
            self.clear()
        addition = self._fitting(events, last_hash)
        self._remove_while(
            lambda: (
                self._events + len(addition.events) > self._events_max
                or (self._bytes_max is not None and self._bytes + addition.size > self._bytes_max)
            )
        )
        self._additions.append(addition)
        self._events += len(addition.events)
        self._bytes += addition.size

    def clear(self) -> None:
        self._remove_while(lambda: True)

    def _fitting(self, events: Sequence[E], last_hash: bytes) -> _Addition[E]:
        """Return the last of the events whose sizes sum up to at most `bytes_max`."""
        if self._bytes_max is None:
            return _Addition(events[0].position, events, 0, last_hash)
        sizes = list(map(self._size_of, events))
        size, skipped = sum(sizes), 0
        while size > self._bytes_max and skipped < len(events) - 1:
            size -= sizes[skipped]
            skipped += 1
        return _Addition(events[skipped].position, events[skipped:], size, last_hash)

    def _remove_while(self, is_too_much: Callable[[], bool]) -> None:
        while self._additions and is_too_much():
            removed = self._additions.popleft()
            self._events -= len(removed.events)
            self._bytes -= removed.size

    def beyond(self, position: int, limit: int) -> list[E]:
        """Return the events that follow a position without a gap, up to `limit` of them."""
        additions = list(self._additions)  # one step of the interpreter: no addition comes between
        index = bisect_right(additions, position + 1, key=lambda addition: addition.first) - 1
        if index < 0:
            return []
        first = additions[index].events
        start = bisect_right(first, position, key=lambda event: event.position)
        found = list(first[start : start + limit])
        for addition in additions[index + 1 :]:
            if len(found) >= limit:
                break
            found += addition.events[: limit - len(found)]
        return found

    def or_read(self, read: Read[E], hash_at: HashAt) -> Read[E]:
        """Wrap `read` so that it is called only for what is not in memory.

        What is in memory is used only if the database has it: another one may be in its place,
        which lacks these events. `hash_at` returns its hash of the log's chain up to a position.
        """

        def read_recent(connection: Connection, after: int, limit: int) -> Sequence[E]:
            found = self.beyond(after, limit)
            if found and not self._is_of(partial(hash_at, connection), found[-1].position):
                found = []
            left = limit - len(found)
            return found + list(read(connection, after + len(found), left)) if left else found

        return read_recent

    def _is_of(self, hash_at: Callable[[int], bytes | None], position: int) -> bool:
        """Return True if the database has the addition with a position, as it was added."""
        additions = list(self._additions)
        index = bisect_right(additions, position, key=lambda addition: addition.first) - 1
        if index < 0:
            return False
        addition = additions[index]
        return hash_at(addition.events[-1].position) == addition.hash
