"""The check of the log's rows as events: they decode, and columns and bodies agree with them."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.language.errors import LogTooNew
from domain.language.events import (
    EVENT_TYPES,
    VERSION,
    BodiesErased,
    Recorded,
    named_body,
    user_of,
)
from domain.language.identifiers import POSITION_MAX, UserId
from domain.log.stored_log import UNREADABLE, recorded
from domain.log.upcasting import version_of
from projections.storage.rows import create_all, insert
from projections.verify.findings import FindingsSink
from projections.verify.log_pages import BODIES_PER_PAGE, Digests, LogPage, LogPages

# The errors that `recorded` raises for a row that is no event.
NO_EVENT: Final = (*UNREADABLE, TypeError, LogTooNew)

_Body = tuple[str, int]  # SHA-256 in hex, size


_MISSING_PER_PAGE = 1000

_missing = sa.Table(
    "missing_bodies",
    sa.MetaData(),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
)


class EventCheck:
    """Checks the log page by page, and returns the events that can be folded."""

    def __init__(
        self, pages: LogPages, end: int, erasures: "ErasureCheck", sink: FindingsSink
    ) -> None:
        """Begin a check in which events after the position `end` are checked but not returned."""
        self.stopped_at: int | None = None  # position of the first event that cannot be read
        self._erasures = erasures
        self._pages = pages
        self._end = end
        self._sink = sink

    def take(self, page: LogPage) -> Sequence[Recorded]:
        """Check a page; return its events up to the end or to the first that cannot be read."""
        events: list[Recorded] = []
        bodies: dict[int, _Body] = {}
        erasures: list[tuple[int, BodiesErased]] = []
        sink = self._sink
        for row in page.rows:
            position, type_name, version, user_id = row[:4]
            if not isinstance(position, int) or position > page.up_to:
                break
            try:
                one = recorded(row)
            except NO_EVENT as error:
                sink.about(position, _unreadable(error))
                self.stopped_at = self.stopped_at or position
                continue
            event = one.event
            kind = type(event)
            if kind is not EVENT_TYPES.get(type_name) or not _is_version(version, type_name):
                sink.about(position, "its data are of another type or version than its row")
            if user_of(event) != user_id:
                sink.about(position, "the user of its data is not the one of its row")
            if (body := named_body(event)) is not None:
                bodies[position] = body
            elif isinstance(event, BodiesErased):
                erasures.append((position, event))
            if self.stopped_at is None and position <= self._end:
                events.append(one)
        self._take_bodies(bodies, page.digests, page.up_to)
        for position, event in erasures:
            self._erasures.take(position, event)
        return events

    def take_archived(self, bodies: dict[int, tuple[str, int]], cut: int) -> None:
        """Check the bodies of the archived part that stay: SHA-256 and size by position."""
        if cut:
            self._take_bodies(dict(bodies), self._pages.digests(0, cut), cut)

    def take_end(self, position: int) -> None:
        """Report bodies after the last event, and missing bodies that no event has erased."""
        self._take_bodies({}, self._pages.digests(position, POSITION_MAX), POSITION_MAX)
        self._erasures.take_end()

    def _take_bodies(self, expected: dict[int, _Body], found: Digests, up_to: int) -> None:
        while found:
            for position, digest, size in found:
                wanted = expected.pop(position, None)
                if wanted is None:
                    self._sink.about(position, "a body is stored that no event names")
                elif wanted != (digest, size):
                    self._sink.about(
                        position,
                        f"its body has {size} bytes and the SHA-256 {digest}, but the event says "
                        f"{wanted[1]} and {wanted[0]}",
                    )
            if len(found) < BODIES_PER_PAGE:
                break
            found = self._pages.digests(found[-1][0], up_to)
        self._erasures.take_missing(expected)


class ErasureCheck:
    """Holds missing bodies against the events that say which ones were erased.

    Such an event comes long after the one whose body it erased, so positions of missing bodies are
    kept in the scratch database.
    """

    def __init__(
        self,
        scratch: Connection,
        sink: FindingsSink,
        is_elsewhere: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """`is_elsewhere` returns True for the position of a body that only segments may have."""
        self.erased: dict[UserId, int] = {}  # number of bodies
        self._scratch = scratch
        self._sink = sink
        self._is_elsewhere = is_elsewhere
        create_all(scratch, [_missing])

    def take_missing(self, positions: Iterable[int]) -> None:
        """Note the positions of bodies that are not stored."""
        insert(self._scratch, _missing, [(position,) for position in positions])

    def take(self, position: int, event: BodiesErased) -> None:
        """Explain missing bodies by an event; report those that are stored or never were."""
        for erased in event.positions:
            found = self._scratch.execute(_missing.delete().where(_missing.c.position == erased))
            if not found.rowcount and not self._is_elsewhere(erased):
                self._report_stored(position, erased)
        self.erased[event.user_id] = self.erased.get(event.user_id, 0) + len(event.positions)

    def take_end(self) -> None:
        """Report the missing bodies that no event explains."""
        after = 0
        while found := self._page(after):
            for position in found:
                self._report_missing(position)
            after = found[-1]

    def _report_stored(self, position: int, erased: int) -> None:
        self._sink.about(position, f"it erased the body at {erased}, which is stored or never was")

    def _report_missing(self, position: int) -> None:
        self._sink.about(position, "its body is missing")

    def _page(self, after: int) -> list[int]:
        rows = self._scratch.execute(
            sa.select(_missing.c.position)
            .where(_missing.c.position > after)
            .order_by(_missing.c.position)
            .limit(_MISSING_PER_PAGE)
        )
        return list(rows.scalars())


@lru_cache(maxsize=64, typed=True)
def _is_version(version: Any, type_name: str) -> bool:  # noqa: ANN401 (whatever is in the column)
    return isinstance(version, int) and VERSION <= version <= version_of(type_name)


def _unreadable(error: Exception) -> str:
    if isinstance(error, LogTooNew):
        return f"it cannot be read: {error}"
    return f"it cannot be read ({type(error).__name__}: {error})"
