"""The rows that the archive leaves: the snapshot at the cut, full tiles, events that stay.

Events of keys, of the clock, of accepted losses and of the archive itself stay in the log, also
below the cut: they are few, and are found by their type.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log.event_pages import RECORDED, latest_of, latest_position, recorded
from adapters.log.key_events import KEY_EVENT_NAMES
from adapters.log.tables import HEAD_ID, bodies, events, log_head, log_snapshot, log_tiles
from domain.decisions.ports import Cut
from domain.jobs.archive import ARCHIVE_EVENTS
from domain.language.commands import Command, EraseArchivedBodies, SubmitRows
from domain.language.errors import JobArchived, JobLost, LogCorrupt, UnknownJob
from domain.language.events import (
    EVENT_TYPES,
    ArchiveBegun,
    ArchiveCompleted,
    BodiesErased,
    ClockCorrected,
    EventLost,
    JobSubmitted,
    LossAccepted,
    Recorded,
    SegmentArchived,
    SegmentRewritten,
)
from domain.language.identifiers import POSITION_MAX, JobId
from domain.language.moments import to_micros
from domain.log.segments import Segment, named_segments, naming_events

ARCHIVE_EVENT_NAMES: Final = tuple(
    name for name, cls in EVENT_TYPES.items() if cls in ARCHIVE_EVENTS
)
# Of the events that stay in the log when they are archived.
KEPT_NAMES: Final = (
    *KEY_EVENT_NAMES,
    ClockCorrected.__name__,
    LossAccepted.__name__,
    *ARCHIVE_EVENT_NAMES,
)
_MAY_BE_A_JOB: Final = (JobSubmitted.__name__, None)
ROWS_PER_DELETE: Final = 250
ERASURES_MAX: Final = 10_000
NO_HEAD: Final = "The log has no head row; run `fairlog migrate`."
_CUT: Final = (
    f"SELECT archived, archived_hash, archived_snapshot FROM log_head WHERE id = {HEAD_ID}"
)


def cut(connection: Connection) -> Cut:
    """Return the end of the archived part. Raises `LogCorrupt` without a head row."""
    found = connection.exec_driver_sql(_CUT).one_or_none()
    if found is None:
        raise LogCorrupt(NO_HEAD)
    position, cut_hash, snapshot = found
    return Cut(position, bytes(cut_hash), snapshot) if position else Cut()


def latest_archive_event(connection: Connection, up_to: int = POSITION_MAX) -> int:
    """Return the position of the latest event of an archive, at most `up_to`; 0: there is none."""
    return latest_of(connection, ARCHIVE_EVENT_NAMES, up_to)


def is_completed(connection: Connection) -> bool:
    """Return True if what the log names as archived was deleted from the database."""
    completed = latest_position(connection, ArchiveCompleted.__name__)
    return completed > latest_position(connection, SegmentArchived.__name__)


def note(connection: Connection, event: Recorded) -> None:
    """Note in the head row what an event says of the archive, and change the head's version, by
    which every process drops what it has in memory. Needs the head lock; the event is appended.
    """
    by = event.position - latest_archive_event(connection, event.position - 1)
    values: dict[str, object] = {"epoch": log_head.c.epoch + by}
    match event.event:
        case ArchiveBegun(recorded_at=recorded_at):
            closed_at, before = to_micros(recorded_at), log_head.c.closed_at
            later = sa.case((before > closed_at, before), else_=closed_at)
            values |= {"archive_begun": event.position, "closed_at": later}
        case SegmentArchived(last=last, last_hash=last_hash, begun=begun):
            values |= {
                "archived": last,
                "archived_hash": bytes.fromhex(last_hash),
                "archived_snapshot": begun,
            }
        case _:
            pass
    connection.execute(log_head.update().where(log_head.c.id == HEAD_ID).values(**values))


def segment_names(connection: Connection) -> list[Recorded]:
    """Return the events that name files of segments, `SegmentArchived` and `SegmentRewritten`, in
    the order of the log.
    """
    found: list[Recorded] = []
    for cls in (SegmentArchived, SegmentRewritten):  # one range of the index each
        found += recorded(connection, sa.select(*RECORDED).where(events.c.type == cls.__name__))
    return sorted(found, key=lambda one: one.position)


def segments(connection: Connection) -> list[Segment]:
    """Return the segments that the log names, of each part the latest file."""
    return named_segments(naming_events(segment_names(connection)))


def latest_erasures(connection: Connection, after: int) -> list[Recorded]:
    """Return up to ERASURES_MAX events after a position that erased bodies, newest first."""
    query = sa.select(*RECORDED).where(
        events.c.type == BodiesErased.__name__, events.c.position > after
    )
    return recorded(connection, query.order_by(events.c.position.desc()).limit(ERASURES_MAX))


def still_to_erase(
    connection: Connection, commands: Sequence[Command]
) -> list[Command | SubmitRows]:
    """Return the commands; those for archived jobs that were erased before without positions, since
    such a job may have no row that would say so. Needs the head lock.
    """
    left: list[Command | SubmitRows] = list(commands)
    for place, command in enumerate(commands):
        if isinstance(command, EraseArchivedBodies):
            query = sa.select(events.c.position).where(
                events.c.job_id == command.job_id, events.c.type == BodiesErased.__name__
            )
            if connection.execute(query.limit(1)).first() is not None:
                left[place] = replace(command, positions=())
    return left


def absence(connection: Connection, job_id: JobId) -> UnknownJob:
    """Return the error for a job that has no row: it is archived, lost, or it never existed."""
    if job_id > cut(connection).position:
        at = sa.select(*RECORDED).where(events.c.position == job_id)
        for one in recorded(connection, at):
            if isinstance(one.event, EventLost) and one.event.lost_type in _MAY_BE_A_JOB:
                return JobLost(job_id)
        return UnknownJob(job_id)
    names = (one.name for one in segments(connection) if one.first <= job_id <= one.last)
    return JobArchived(job_id, next(names, None))


def kept_rows(connection: Connection, up_to: int) -> list[tuple[Any, ...]]:
    """Return the rows up to a position that stay in the log, as they are stored."""
    found: list[tuple[Any, ...]] = []
    for name in KEPT_NAMES:
        query = sa.select(events).where(events.c.type == name, events.c.position <= up_to)
        found += map(tuple, connection.execute(query))
    return sorted(found)


def snapshot_parts(connection: Connection, snapshot: int) -> Iterator[bytes]:
    """Yield the parts of a snapshot, one in memory at a time."""
    part = 0
    while True:
        found = connection.execute(
            sa.select(log_snapshot.c.data).where(
                log_snapshot.c.begun == snapshot, log_snapshot.c.part == part
            )
        ).scalar_one_or_none()
        if found is None:
            return
        yield bytes(found)
        part += 1


def store_snapshot_part(connection: Connection, snapshot: int, part: int, data: bytes) -> None:
    connection.execute(log_snapshot.insert().values(begun=snapshot, part=part, data=data))


def remove_other_snapshots(connection: Connection, snapshot: int) -> int:
    """Remove a part of another snapshot, an earlier one or one that a stopped archive has left;
    return 0 if there is none.
    """
    found = connection.execute(
        sa.select(log_snapshot.c.begun, log_snapshot.c.part)
        .where(log_snapshot.c.begun != snapshot)
        .limit(1)
    ).one_or_none()
    if found is None:
        return 0
    this = sa.and_(log_snapshot.c.begun == found.begun, log_snapshot.c.part == found.part)
    connection.execute(log_snapshot.delete().where(this))
    return 1


def store_tiles(connection: Connection, tiles: Sequence[tuple[int, int, bytes]]) -> None:
    """Store full tiles of the archived part that are not stored yet."""
    for level, tile, hashes in tiles:
        found = connection.execute(
            sa.select(log_tiles.c.tile).where(log_tiles.c.level == level, log_tiles.c.tile == tile)
        ).first()
        if found is None:
            connection.execute(log_tiles.insert().values(level=level, tile=tile, hashes=hashes))


def archived_tile(connection: Connection, level: int, tile: int) -> bytes:
    """Return a full tile of the archived part; empty: it is not there."""
    found = connection.execute(
        sa.select(log_tiles.c.hashes).where(log_tiles.c.level == level, log_tiles.c.tile == tile)
    ).scalar_one_or_none()
    return b"" if found is None else bytes(found)


def delete_events(connection: Connection, after: int, up_to: int) -> int:
    """Delete the next archived rows after a position, but for the events that are kept; return the
    position up to which they are gone.
    """
    end = min(up_to, after + ROWS_PER_DELETE)
    connection.execute(
        events.delete().where(
            events.c.position > after,
            events.c.position <= end,
            events.c.type.not_in(KEPT_NAMES),
        )
    )
    return end


def delete_bodies(connection: Connection, after: int, up_to: int, kept: Sequence[int]) -> int:
    """Delete the next archived bodies after a position, but for those that stay, given in order;
    return the position up to which they are gone.
    """
    end = min(up_to, after + ROWS_PER_DELETE)
    within = sa.and_(bodies.c.position > after, bodies.c.position <= end)
    stay = kept[bisect_right(kept, after) : bisect_right(kept, end)]
    connection.execute(bodies.delete().where(within, bodies.c.position.not_in(stay)))
    return end
