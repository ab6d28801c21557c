"""`fairlog restore`: brings a log back into a database from its segments.

The rows are written as they were, in the order of the log and in small transactions. A restore that
was stopped goes on where the head row says.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy.engine import Connection

from adapters.archive.archived_log import ArchivedLog
from adapters.archive.directory import Archive
from adapters.log.schema import migrate
from domain.decisions.ports import Head
from domain.language.errors import FairlogError, SegmentUnusable
from domain.log.segments import SegmentRows
from entrypoints.composition import mend_bookkeeping, prepare
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.whole_history import joined_segments

ROWS_PER_TRANSACTION: Final = 2_000

Progress = Callable[[int, int], None]  # events written, events of the archive


def restore(fairlog: Fairlog, location: str, progress: Progress) -> int:
    """Write the events and bodies of an archive to an empty database, and build its projections.

    No server may run on the database. Returns the position of the last event. Raises `FairlogError`
    if the database has another log, `SegmentUnusable` and `ArchiveUnavailable`.
    """
    archive = Archive(location)
    segments = joined_segments(archive)
    migrate(fairlog.database)
    with ArchivedLog(archive, segments) as archived:
        position = 0
        while position < archived.end:
            position = _restore_some(fairlog, archived)
            progress(position, archived.end)
    prepare(fairlog)
    mend_bookkeeping(fairlog)  # the head row's version is to say that keys have come
    return position


def _restore_some(fairlog: Fairlog, archived: ArchivedLog) -> int:
    """Write the rows that follow the head, in one transaction; return its position after that."""
    log = fairlog.log
    with fairlog.database.connect_writer() as connection, connection.begin():
        head = log.lock_head(connection)
        _require_same_log(fairlog, connection, archived, head)
        rows = archived.rows(head.position, ROWS_PER_TRANSACTION)
        if not rows:
            return head.position
        check = SegmentRows(head.position + 1, head.hash)
        wrong = next(filter(None, map(check.take, rows)), None)
        if wrong is not None:
            raise SegmentUnusable(
                f"The archive cannot be restored: {wrong}. The events before it were; bring the "
                "segment back from a copy, and run the command again."
            )
        end = int(rows[-1][0])
        log.restore(connection, head, rows, archived.bodies_between(head.position, end))
        return end


def _require_same_log(
    fairlog: Fairlog, connection: Connection, archived: ArchivedLog, head: Head
) -> None:
    """Refuse a database that has another log, or more of this one than the archive."""
    if head.position > archived.end:
        raise FairlogError(
            f"The database has events up to {head.position}, and the archive up to "
            f"{archived.end}: restore into an empty database."
        )
    if head.position and archived.hash_at(head.position) != head.hash:
        raise FairlogError("The database has another log: restore into an empty database.")
    if wrong := fairlog.log.row_beyond_head(connection, head):
        raise FairlogError(wrong)
