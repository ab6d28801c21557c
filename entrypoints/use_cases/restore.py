"""`fairlog restore`: brings a log back into a database from its segments.

The rows are written as they were, in the order of the log and in small transactions. A restore that
was stopped goes on where the head row says.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final

from sqlalchemy.engine import Connection

from adapters.archive.archived_log import ArchivedLog
from adapters.archive.directory import Archive
from adapters.log import restoring
from adapters.log.schema import migrate
from domain.decisions.ports import Head
from domain.language.errors import FairlogError, SegmentUnusable
from domain.log.chain import GENESIS
from domain.log.segments import SegmentRows
from domain.log.stored_log import StoredRow
from entrypoints.composition import (
    mend_bookkeeping,
    prepare,
    projection_tables,
    rebuild_projections,
)
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.erasure import Erased
from entrypoints.use_cases.restored_erasures import erase_again
from entrypoints.use_cases.whole_history import (
    erased_bodies,
    joined_segments,
    require_joined,
    segments_of,
)
from projections.verify.bookkeeping import REGISTRY

ROWS_PER_TRANSACTION: Final = 2_000

Progress = Callable[[int, int], None]  # events written, events of the archive


def restore(fairlog: Fairlog, location: str, progress: Progress) -> tuple[int, Erased]:
    """Write the events and bodies of an archive to a database, and build its projections.

    The database is empty, or has the live part of the same log; then its archived part is put back.
    No server may run on it. Bodies that were erased stay erased: where the log ends before it says
    so, they are erased once more, and jobs that had not ended are cancelled. Returns the position
    of the last event that was written, and what was erased once more. Raises `FairlogError` if the
    database has another log, `SegmentUnusable` and `ArchiveUnavailable`.
    """
    archive = Archive(location)
    migrate(fairlog.database)
    cut = fairlog.read_now(fairlog.log.cut)
    segments = segments_of(fairlog, archive) if cut.position else joined_segments(archive)
    with ArchivedLog(archive, segments) as archived:
        if cut.position:
            fairlog.read_now(lambda connection: require_joined(fairlog, connection, segments))
        with fairlog.database.read() as connection:
            erased = erased_bodies(connection, archived, fairlog.log.position(connection))
        position, end = 0, cut.position or archived.end
        while position < end:
            write = _put_back_some if cut.position else _restore_some
            position = write(fairlog, archived, position, erased)
            progress(position, end)
    with fairlog.database.write() as connection:
        fairlog.log.lock_head(connection)
        restoring.forget_cut(connection)
    built = prepare(fairlog)
    mend_bookkeeping(fairlog)  # the head row's version is to say that keys have come
    others = [name for name in projection_tables(fairlog) if name not in {REGISTRY, *built}]
    rebuild_projections(fairlog, others)
    restored = fairlog.read_now(fairlog.log.position)
    return restored, erase_again(fairlog, archive)


def _restore_some(fairlog: Fairlog, archived: ArchivedLog, _: int, erased: Collection[int]) -> int:
    """Write the rows that follow the head, in one transaction; return its position after that."""
    log = fairlog.log
    with fairlog.database.connect_writer() as connection, connection.begin():
        head = log.lock_head(connection)
        _require_same_log(fairlog, connection, archived, head)
        rows = _checked_rows(archived, head.position, head.hash)
        if rows:
            bodies = _bodies(archived, head.position, rows[-1][0], erased)
            restoring.append(log, connection, head, rows, bodies)
        return int(rows[-1][0]) if rows else head.position


def _put_back_some(
    fairlog: Fairlog, archived: ArchivedLog, after: int, erased: Collection[int]
) -> int:
    """Write archived rows after a position that are not there, in one transaction; return the
    position of the last one.
    """
    with fairlog.database.connect_writer() as connection, connection.begin():
        fairlog.log.lock_head(connection)
        rows = _checked_rows(archived, after, archived.hash_at(after) if after else GENESIS)
        end = int(rows[-1][0])
        restoring.fill(connection, rows, _bodies(archived, after, end, erased))
        return end


def _checked_rows(archived: ArchivedLog, after: int, last_hash: bytes) -> list[StoredRow]:
    rows = archived.rows(after, ROWS_PER_TRANSACTION)
    check = SegmentRows(after + 1, last_hash)
    wrong = next(filter(None, map(check.take, rows)), None)
    if wrong is not None:
        raise SegmentUnusable(
            f"The archive cannot be restored: {wrong}. The events before it were; bring the "
            "segment back from a copy, and run the command again."
        )
    return rows


def _bodies(
    archived: ArchivedLog, after: int, up_to: int, erased: Collection[int]
) -> Iterator[tuple[int, bytes]]:
    for position, body in archived.bodies_between(after, up_to):
        if position not in erased:
            yield position, body


def _require_same_log(
    fairlog: Fairlog, connection: Connection, archived: ArchivedLog, head: Head
) -> None:
    """Refuse a database that has another log, or more of this one than the archive."""
    if head.position > archived.end and fairlog.log.hash_at(
        connection, archived.end
    ) != archived.hash_at(archived.end):
        raise FairlogError(
            f"The database has events up to {head.position}, and the archive up to "
            f"{archived.end}: restore into an empty database."
        )
    if 0 < head.position <= archived.end and archived.hash_at(head.position) != head.hash:
        raise FairlogError("The database has another log: restore into an empty database.")
    if wrong := fairlog.log.row_beyond_head(connection, head):
        raise FairlogError(wrong)
