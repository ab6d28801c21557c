"""Reading of the stored log, one page ahead, so that the database works while a page is checked."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Self, TypeVar

from sqlalchemy.engine import Connection

from domain.language.events import Recorded
from domain.log.stored_log import StoredLog, StoredRow

EVENTS_PER_PAGE: Final = 2000
BODIES_PER_PAGE: Final = 2000

T = TypeVar("T")
Digests = Sequence[tuple[int, str, int]]  # of bodies: position, SHA-256 in hex, size


class LogPage(NamedTuple):
    """A page of the log, as rows or as events."""

    rows: Sequence[StoredRow]
    after: int  # the position before them
    up_to: int  # the latest position, which the next page follows
    digests: Digests = ()  # of the first `BODIES_PER_PAGE` bodies in between
    events: Sequence[Recorded] = ()  # instead of rows, if all of them could be read as events


class LogPages:
    """Reads over one snapshot. One thread runs all queries: a connection takes one at a time.

    With `as_events` pages have events where possible; with `with_bodies` they have digests.
    """

    def __init__(
        self,
        log: StoredLog[Connection],
        snapshot: Connection,
        *,
        with_bodies: bool = False,
        as_events: bool = False,
    ) -> None:
        self._log = log
        self._snapshot = snapshot
        self._with_bodies = with_bodies
        self._as_events = as_events
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fairlog-verify")
        self.has_failed = False  # True after `query` has raised an error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def after(self, position: int) -> Iterator[LogPage]:
        """Yield the pages after a position, as far as they can be read in order."""
        page = self._page(position)
        while page.rows or page.events:
            ahead = self._thread.submit(self._page, page.up_to)
            yield page
            if page.up_to == page.after:
                return
            page = ahead.result()

    def digests(self, after: int, up_to: int) -> Digests:
        """Return up to `BODIES_PER_PAGE` digests of bodies after a position, in order."""
        return self._thread.submit(self._digests, after, up_to).result()

    def query(self, run: Callable[[Connection], T]) -> T:
        """Run another query over the snapshot, between the queries for pages."""
        try:
            return self._thread.submit(run, self._snapshot).result()
        except Exception:
            self.has_failed = True
            raise

    def _page(self, after: int) -> LogPage:
        if self._as_events and (events := self._log.events(self._snapshot, after, EVENTS_PER_PAGE)):
            return LogPage((), after, events[-1].position, events=events)
        rows = self._log.rows(self._snapshot, after, EVENTS_PER_PAGE)
        up_to = _end(rows, after)
        if not self._with_bodies:
            return LogPage(rows, after, up_to)
        return LogPage(rows, after, up_to, self._digests(after, up_to))

    def _digests(self, after: int, up_to: int) -> Digests:
        return self._log.body_digests(self._snapshot, after, up_to, BODIES_PER_PAGE)


def _end(rows: Sequence[StoredRow], after: int) -> int:
    """Return the latest position of rows in order; in SQLite a position need not be a number."""
    for row in rows:
        if not isinstance(row[0], int):
            break
        after = row[0]
    return after
