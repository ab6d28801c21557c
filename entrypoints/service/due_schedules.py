"""The schedules whose runs are decided next: a page at a time, by user in turns.

One indexed read finds those that are due. While the log does not move, it is repeated every few
seconds.
"""

from typing import Final

from sqlalchemy.engine import Connection

from adapters.log.event_log import HeadReading
from domain.fairness.due import DueQueue
from domain.language.identifiers import ScheduleName
from projections.inline.schedules import ScheduleQueries

SCHEDULES_PER_PAGE: Final = 500  # decided together; other commands and timers wait for a page
ROWS_PER_READ: Final = 20_000
_SOON_MICROS: Final = 3_000_000


class DueSchedules:
    """The due schedules that have been read and not been returned. Use it from one caller."""

    def __init__(self, schedules: ScheduleQueries) -> None:
        self._schedules = schedules
        self._queue = DueQueue[ScheduleName]()
        self.is_quiet = False  # nothing is due, nor soon
        self._head = (-1, -1)  # position and version when it was last read
        self._nothing_until = 0  # by the log's clock in microseconds: nothing is due before

    @property
    def has_more(self) -> bool:
        """True if more schedules are due than the pages had."""
        return bool(self._queue)

    def next_page(self, connection: Connection, head: HeadReading) -> list[ScheduleName]:
        """Return some schedules with a due run; none if none is due."""
        if not self._queue:
            self._read(connection, head)
        return self._queue.take(SCHEDULES_PER_PAGE)

    def clear(self) -> None:
        """Drop all, so that they are read again: those returned may not have been decided."""
        self._queue.clear()
        self._head = (-1, -1)

    def _read(self, connection: Connection, head: HeadReading) -> None:
        now = head.clock.now
        position = (head.position, head.version)
        if position == self._head and now < self._nothing_until:
            return
        self._head = position
        self._queue.clear()
        soon = now + _SOON_MICROS
        found = self._schedules.waking(connection, soon, ROWS_PER_READ)
        self._queue.add(one for one in found if one.due_at <= now)
        self._nothing_until = min((one.due_at for one in found if one.due_at > now), default=soon)
        self.is_quiet = not found
