"""The schedules whose runs are decided next: a page at a time, by user in turns.

One indexed read finds those that are due, and the next one. While the log does not move, nothing is
read before its time.
"""

from typing import Final

from sqlalchemy.engine import Connection

from adapters.log.event_log import HeadReading
from domain.fairness.due import DueQueue
from domain.language.identifiers import ScheduleName
from entrypoints.service.due_jobs import ANY_TIME, SOON_MICROS, TRUST_MICROS
from projections.inline.schedules import ScheduleQueries

SCHEDULES_PER_PAGE: Final = 500  # decided together; other commands and timers wait for a page
ROWS_PER_READ: Final = 20_000


class DueSchedules:
    """The due schedules that have been read and not been returned. Use it from one caller."""

    def __init__(self, schedules: ScheduleQueries) -> None:
        self._schedules = schedules
        self._queue = DueQueue[ScheduleName]()
        self.is_quiet = False  # nothing was written lately, and nothing is due soon
        self._head = (-1, -1)  # position and version when it was last read
        self._read_at = 0  # by the log's clock in microseconds
        self._earliest = 0  # the time of the next one, likewise; 0: unknown

    @property
    def has_more(self) -> bool:
        """True if more schedules are due than the pages had."""
        return bool(self._queue)

    def next_page(self, connection: Connection, head: HeadReading) -> list[ScheduleName]:
        """Return some schedules with a due run; none if none is due."""
        if not self._queue:
            self._read(connection, head)
        self.is_quiet = not self._queue and head.clock.now + SOON_MICROS < self._earliest
        return self._queue.take(SCHEDULES_PER_PAGE)

    def clear(self) -> None:
        """Drop all, so that they are read again: those returned may not have been decided."""
        self._queue.clear()
        self._head = (-1, -1)

    def _read(self, connection: Connection, head: HeadReading) -> None:
        now = head.clock.now
        position = (head.position, head.version)
        has_moved = position != self._head
        if not has_moved and now < min(self._earliest, self._read_at + TRUST_MICROS):
            return
        self._head, self._read_at = position, now
        self._queue.clear()
        found = self._schedules.waking(connection, now, ROWS_PER_READ)
        self._queue.add(one for one in found if one.due_at <= now)
        if has_moved:
            self._earliest = 0  # unknown: rows may be written a moment after the head
        else:
            later = (one.due_at for one in found if one.due_at > now)
            self._earliest = min(later, default=ANY_TIME)
