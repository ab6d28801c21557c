"""Rows of the log as events: they decode, and their columns and bodies agree with them."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from domain.language.errors import LogTooNew
from domain.language.events import (
    EVENT_TYPES,
    VERSION,
    BodiesErased,
    JobCompleted,
    JobFailed,
    JobSubmitted,
    Recorded,
)
from domain.language.identifiers import POSITION_MAX
from domain.language.moments import from_micros
from domain.log.stored_log import UNREADABLE, StoredRow
from domain.log.upcasting import read, version_of
from projections.verify.erasure_check import ErasureCheck
from projections.verify.findings import FindingsSink
from projections.verify.log_pages import BODIES_PER_PAGE, Digests, LogPage, LogPages

# What `recorded` raises for a row that is no event.
NO_EVENT: Final = (*UNREADABLE, TypeError, LogTooNew)

_Body = tuple[str, int]  # SHA-256 in hex, size


class EventCheck:
    """Takes the log page by page, and hands on what can be folded."""

    def __init__(
        self, pages: LogPages, end: int, erasures: ErasureCheck, told: FindingsSink
    ) -> None:
        """`end`: what lies behind it is not handed on."""
        self.stopped_at: int | None = None  # the first event that cannot be read
        self._erasures = erasures
        self._pages = pages
        self._end = end
        self._told = told

    def take(self, page: LogPage) -> Sequence[Recorded]:
        """Up to the end, and up to the first that cannot be read."""
        events: list[Recorded] = []
        bodies: dict[int, _Body] = {}
        erasures: list[tuple[int, BodiesErased]] = []
        told = self._told
        for row in page.rows:
            position, type_name, version, user_id = row[:4]
            if not isinstance(position, int) or position > page.up_to:
                break
            try:
                one = recorded(row)
            except NO_EVENT as error:
                told.about(position, _unreadable(error))
                self.stopped_at = self.stopped_at or position
                continue
            event = one.event
            kind = type(event)
            if kind is not EVENT_TYPES.get(type_name) or not _is_version(version, type_name):
                told.about(position, "its data are of another type or version than its row")
            user: str | None = getattr(event, "user_id", None)
            if (None if user is None else user.encode()) != user_id:
                told.about(position, "the user of its data is not the one of its row")
            if kind in _BODIES:
                if (body := _BODIES[kind](event)) is not None:
                    bodies[position] = body
            elif isinstance(event, BodiesErased):
                erasures.append((position, event))
            if self.stopped_at is None and position <= self._end:
                events.append(one)
        self._take_bodies(bodies, page.digests, page.up_to)
        for position, event in erasures:
            self._erasures.take(position, event)
        return events

    def take_end(self, position: int) -> None:
        """Look for bodies behind the last event, and tell of those that nothing explains."""
        self._take_bodies({}, self._pages.digests(position, POSITION_MAX), POSITION_MAX)
        self._erasures.take_end()

    def _take_bodies(self, expected: dict[int, _Body], found: Digests, up_to: int) -> None:
        while found:
            for position, digest, size in found:
                wanted = expected.pop(position, None)
                if wanted is None:
                    self._told.about(position, "there is a body that no event speaks of")
                elif wanted != (digest, size):
                    self._told.about(
                        position,
                        f"its body has {size} bytes and the SHA-256 {digest}, but the event says "
                        f"{wanted[1]} and {wanted[0]}",
                    )
            if len(found) < BODIES_PER_PAGE:
                break
            found = self._pages.digests(found[-1][0], up_to)
        self._erasures.take_missing(expected)


def recorded(row: StoredRow) -> Recorded:
    """The event of a row, which may hold anything: see `NO_EVENT`."""
    position, _, version, _, job_id, recorded_at, data, _ = row
    return Recorded(position, _moment(recorded_at), job_id, read(version, data))


_moment: Final = lru_cache(maxsize=16)(from_micros)  # the events of a batch have one time


@lru_cache(maxsize=64, typed=True)  # each event asks for one of few
def _is_version(version: Any, type_name: str) -> bool:  # noqa: ANN401 (whatever is in the column)
    return isinstance(version, int) and VERSION <= version <= version_of(type_name)


def _unreadable(error: Exception) -> str:
    if isinstance(error, LogTooNew):
        return f"it cannot be read: {error}"
    return f"it cannot be read ({type(error).__name__}: {error})"


def _body_of_completion(event: JobCompleted) -> _Body | None:
    return None if event.result_sha256 is None else (event.result_sha256, event.result_bytes)


def _body_of_failure(event: JobFailed) -> _Body | None:
    return None if event.error_sha256 is None else (event.error_sha256, event.error_bytes)


# The SHA-256 and the size of the body that belongs to an event, by its type.
_BODIES: Final[Mapping[type, Callable[[Any], _Body | None]]] = {
    JobSubmitted: lambda event: (event.payload_sha256, event.payload_bytes),
    JobCompleted: _body_of_completion,
    JobFailed: _body_of_failure,
}
