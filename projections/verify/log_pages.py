"""The stored log read a page ahead, so that the database works while a page is checked."""

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
    rows: Sequence[StoredRow]
    after: int  # the position before them
    up_to: int  # the last one that the next page can be told by
    digests: Digests = ()  # of the first bodies in between
    events: Sequence[Recorded] = ()  # instead of rows, where they could be read as events


class LogPages:
    """One thread asks all the questions: a connection cannot be asked two at once."""

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
        self.has_failed = False  # a question, which the log has no part in

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def behind(self, position: int) -> Iterator[LogPage]:
        """The pages behind a position, as far as they can be read in order."""
        page = self._page(position)
        while page.rows or page.events:
            ahead = self._thread.submit(self._page, page.up_to)
            yield page
            if page.up_to == page.after:
                return
            page = ahead.result()

    def digests(self, after: int, up_to: int) -> Digests:
        """Up to `BODIES_PER_PAGE` of them, in order."""
        return self._thread.submit(self._digests, after, up_to).result()

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Put any question between those for pages."""
        try:
            return self._thread.submit(question, self._snapshot).result()
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
    """SQLite keeps whatever it is given: behind a position that is no number there is no order."""
    for row in rows:
        if not isinstance(row[0], int):
            break
        after = row[0]
    return after
