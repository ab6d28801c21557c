"""The latest events of the log in memory, so that those who follow it need not read them."""

from collections.abc import Callable, Sequence
from typing import Final, Generic

from sqlalchemy.engine import Connection

from projections.following.async_projector import E, Read

EVENTS_KEPT: Final = 20_000  # some 20 MB


class RecentEvents(Generic[E]):
    """One thread adds, others may read meanwhile.

    With `bytes_max`, the oldest are removed until the sum of all `size_of` is not above it.
    """

    def __init__(
        self,
        events_max: int = EVENTS_KEPT,
        bytes_max: int | None = None,
        size_of: Callable[[E], int] = lambda _: 0,
    ) -> None:
        self._slots: list[E | None] = [None] * events_max  # by position
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._bytes = 0
        self._oldest = 0  # no event before this position counts any more

    def add(self, events: Sequence[E]) -> None:
        for one in events:
            if self._bytes_max is not None:
                self._make_room(one, self._bytes_max)
            self._slots[one.position % len(self._slots)] = one

    def beyond(self, position: int, limit: int) -> list[E]:
        """Return the events that follow a position without a gap, up to `limit` of them."""
        found: list[E] = []
        for following in range(position + 1, position + 1 + limit):
            one = self._slots[following % len(self._slots)]
            if one is None or one.position != following:
                break
            found.append(one)
        return found

    def or_read(self, read: Read[E]) -> Read[E]:
        """Wrap `read` so that it is called only for what is not in memory."""

        def read_recent(connection: Connection, after: int, limit: int) -> Sequence[E]:
            return self.beyond(after, limit) or read(connection, after, limit)

        return read_recent

    def _make_room(self, new: E, bytes_max: int) -> None:
        self._bytes += self._size_of(new)
        first = new.position - len(self._slots) + 1  # whatever is before it loses its slot
        self._oldest = max(self._oldest, first - 1)
        while self._oldest < first or (self._bytes > bytes_max and self._oldest < new.position):
            slot = self._oldest % len(self._slots)
            if (removed := self._slots[slot]) is not None:
                self._bytes -= self._size_of(removed)
                self._slots[slot] = None
            self._oldest += 1
