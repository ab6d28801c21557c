"""The due jobs whose deadlines are enforced next: a page at a time, by user in turns.

Usually all due jobs fit in one page. If more are due, they are read ahead from where the last read
ended, and queued by user: a job that becomes due after 20,000 jobs of another user is in the next
page. The jobs that became due last are read, too, since reading through very many takes long.
"""

from typing import Final

from sqlalchemy.engine import Connection

from adapters.log.event_log import HeadReading
from domain.fairness.due import DueQueue
from domain.language.identifiers import JobId
from projections.inline.jobs import JobQueries

JOBS_PER_PAGE: Final = 500
ROWS_PER_READ: Final = 2_000  # in one query
READS_PER_PAGE_MAX: Final = 4
# A row may be committed a moment after its due time, so this long is read again.
_READ_AGAIN_MICROS: Final = 1_000_000
SOON_MICROS: Final = 3_000_000
TRUST_MICROS: Final = 5_000_000  # then the rows are read again, whatever the head says
ANY_TIME: Final = 2**62  # later than any due time


class DueJobs:
    """The due jobs that have been read and not been returned. Use it from one caller at a time."""

    def __init__(self, jobs: JobQueries) -> None:
        self._jobs = jobs
        self._queue = DueQueue()
        self.has_more = False  # more jobs are due than the last page had
        self._read_to: tuple[int, JobId] | None = None  # (due_at, id); None: nothing is queued
        self.position = 0  # of the head when it was last read
        self.is_quiet = False  # nothing was written lately, and nothing is due soon
        self._version = -1  # of that head
        self._earliest = 0  # due time of a job, by the log's clock in microseconds; 0: unknown
        self._read_at = 0  # when it was read, likewise

    def next_page(self, connection: Connection, head: HeadReading) -> list[JobId]:
        """Return up to JOBS_PER_PAGE jobs that are due now; none if nothing is due.

        While the head does not move, the earliest due time is known, and no job is read before it.
        """
        now_micros = head.clock.now
        has_moved = (head.position, head.version) != (self.position, self._version)
        self.position, self._version = head.position, head.version
        if has_moved:
            self._earliest = 0  # unknown: rows may be written a moment after the head
        elif now_micros >= min(self._earliest, self._read_at + TRUST_MICROS):
            earliest = self._jobs.due(connection, ANY_TIME, None, 1)
            self._earliest = earliest[0].due_at if earliest else ANY_TIME
            self._read_at = now_micros
        self.is_quiet = now_micros + SOON_MICROS < self._earliest
        return self._read_page(connection, now_micros) if self._earliest <= now_micros else []

    def _read_page(self, connection: Connection, now_micros: int) -> list[JobId]:
        is_fresh = self._read_to is None
        self._read_on(connection, now_micros)
        page = self._queue.take(JOBS_PER_PAGE)
        if not is_fresh:  # another server may have updated them since they were read
            page = self._jobs.still_due(connection, now_micros, page)
            while not page and self._queue:
                page = self._queue.take(JOBS_PER_PAGE)
                page = self._jobs.still_due(connection, now_micros, page)
        self.has_more = bool(self._queue) or self._queue.has_left_out
        if not self._queue:
            self.clear()
        return page

    def clear(self) -> None:
        """Drop all jobs, so that they are read again: those returned may not have been updated."""
        self._queue.clear()
        self._read_to = None

    def _read_on(self, connection: Connection, now_micros: int) -> None:
        for _ in range(READS_PER_PAGE_MAX):
            rows = self._jobs.due(connection, now_micros, self._read_to, ROWS_PER_READ)
            self._queue.add(rows)
            if rows:
                latest = rows[-1]
                self._read_to = (latest.due_at, latest.id)
            if len(rows) < ROWS_PER_READ:
                self._read_again_from(now_micros - _READ_AGAIN_MICROS)
                return
        self._queue.add(self._jobs.latest_due(connection, now_micros, JOBS_PER_PAGE))

    def _read_again_from(self, due_at: int) -> None:
        if self._read_to is not None:
            self._read_to = min(self._read_to, (due_at, JobId(0)))
