"""Segments of a log that is still in its database."""

from collections.abc import Callable, Iterable, Sequence

from sqlalchemy.engine import Connection

from adapters.archive.directory import Archive
from adapters.archive.segment_format import StoredState
from adapters.archive.source import bodies_between, row_pages
from adapters.log.stored_log import SqlStoredLog
from domain.log.chain import GENESIS
from domain.log.segments import Segment
from domain.log.stored_log import StoredRow
from entrypoints.service.fairlog import Fairlog

States = Callable[[int], StoredState | None]  # by the last position of the segment


def stored_log(fairlog: Fairlog) -> SqlStoredLog:
    return SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)


def rows_between(fairlog: Fairlog, after: int, up_to: int) -> list[StoredRow]:
    """All rows after a position, up to another, as the database has them."""
    with fairlog.database.read() as connection:
        pages = row_pages(stored_log(fairlog), connection, after, up_to)
        return [row for page in pages for row in page]


def bodies_of(fairlog: Fairlog, after: int, up_to: int) -> dict[int, bytes]:
    with fairlog.database.read() as connection:
        return dict(bodies_between(connection, after, up_to))


def write(
    fairlog: Fairlog,
    archive: Archive,
    connection: Connection,
    before: Segment | None,
    last: int,
    states: States = lambda _: None,
) -> Segment:
    """Write the events after a segment, up to a position, as the next segment."""
    after = 0 if before is None else before.last
    return archive.write(
        row_pages(stored_log(fairlog), connection, after, last),
        bodies_between(connection, after, last),
        first=after + 1,
        previous_hash=GENESIS if before is None else bytes.fromhex(before.last_hash),
        previous_recorded_at=0 if before is None else before.last_recorded_at,
        log_id=None if before is None else before.log_id,
        state=lambda: states(last),
    )


def write_up_to(
    fairlog: Fairlog, archive: Archive, lasts: Iterable[int], states: States = lambda _: None
) -> Sequence[Segment]:
    """Write the beginning of the log in several segments, which end at these positions."""
    segments: list[Segment] = []
    with fairlog.database.read() as connection:
        for last in lasts:
            before = segments[-1] if segments else None
            segments.append(write(fairlog, archive, connection, before, last, states))
    return segments
