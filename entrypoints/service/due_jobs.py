"""The due jobs whose deadlines are enforced next: a page at a time, by user in turns.

Usually all due jobs fit in one page. If more are due, they are read ahead from where the last read
ended, and queued by user: a job that becomes due after 20,000 jobs of another user is in the next
page. The jobs that became due last are read, too, since reading through very many takes long.
"""

from typing import Final

from sqlalchemy.engine import Connection

from domain.fairness.due import DueQueue
from domain.language.identifiers import JobId
from projections.inline.jobs import JobQueries

JOBS_PER_PAGE: Final = 500
ROWS_PER_READ: Final = 2_000  # in one query
READS_PER_PAGE_MAX: Final = 4
# A row may be committed a moment after its due time, so this long is read again.
_READ_AGAIN_MICROS: Final = 1_000_000


class DueJobs:
    """The due jobs that have been read and not been returned. Use it from one caller at a time."""

    def __init__(self, jobs: JobQueries) -> None:
        self._jobs = jobs
        self._queue = DueQueue()
        self.has_more = False  # more jobs are due than the last page had
        self._read_to: tuple[int, JobId] | None = None  # (due_at, id); None: nothing is queued

    def next_page(self, connection: Connection, now_micros: int) -> list[JobId]:
        """Return up to JOBS_PER_PAGE jobs that are due at `now_micros`; none if nothing is due.

        `now_micros` is Unix time in microseconds, by the log's clock.
        """
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
