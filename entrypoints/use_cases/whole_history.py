"""Reads an archive and the database as one log."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Final

from sqlalchemy.engine import Connection

from adapters.archive.archived_log import ArchivedLog
from adapters.archive.directory import Archive
from adapters.archive.whole_log import WholeLog
from adapters.log import archived
from adapters.log.histories import of_types
from adapters.log.stored_log import SqlStoredLog
from domain.language.errors import SegmentUnusable
from domain.language.events import BodiesErased, Recorded
from domain.log.chain import link
from domain.log.segments import Segment, has_same_events, is_of_part, sequence_faults
from domain.log.stored_log import leaf_of
from entrypoints.service.fairlog import Fairlog

_ERASED: Final = BodiesErased.__name__


@contextmanager
def whole_history(fairlog: Fairlog, location: str) -> Iterator[ArchivedLog]:
    """Let a service read the segments at a location too, meanwhile, and yield them.

    Raises `SegmentUnusable` if they do not lead from the beginning of the log to the part that the
    database has, and `ArchiveUnavailable`.
    """
    archive = Archive(location)
    segments = segments_of(fairlog, archive)
    fairlog.read_now(lambda connection: require_joined(fairlog, connection, segments))
    with ArchivedLog(archive, segments) as segment_log:
        live, fairlog.past = fairlog.past, WholeLog(fairlog.log, segment_log)
        try:
            yield segment_log
        finally:
            fairlog.past = live


def segments_of(fairlog: Fairlog, archive: Archive) -> Sequence[Segment]:
    """Return the segments that the log names, as far as they are there; if it names none, those of
    the archive.

    Raises as `joined_segments` does.
    """
    named = fairlog.read_now(archived.segments)
    return latest_files(archive, named) if named else joined_segments(archive)


def latest_files(archive: Archive, named: Sequence[Segment]) -> list[Segment]:
    """Return named segments, and in the place of one whose file is not there the one that was
    written anew from it, if it is: the log may be an earlier state of the one that says so.
    """
    names = archive.names()
    found: list[Segment] = []
    for segment in named:
        others = []
        if segment.name not in names:
            others = [archive.stored(name) for name in names if is_of_part(name, segment)]
        successors = [
            one for one in others if has_same_events(one, segment) and one.bodies <= segment.bodies
        ]
        found.append(min(successors, key=lambda one: one.bodies, default=segment))
    return found


def erased_bodies(connection: Connection, segments: ArchivedLog, up_to: int) -> set[int]:
    """Return the positions of the bodies that events of the whole log up to a position erased."""
    return {body for _, some in erasures(connection, segments, 0, up_to) for body in some}


def erasures(
    connection: Connection, segments: ArchivedLog, after: int, up_to: int
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the position of each erasure of the whole log after a position, up to another, and the
    positions of the bodies that it erased.
    """
    yield from erased_by(segments.of_types([_ERASED], after, segments.end))
    yield from erased_by(of_types(connection, [_ERASED], max(after, segments.end), up_to))


def erased_by(found: Iterable[Recorded]) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the same for the erasures among these events."""
    for one in found:
        if isinstance(one.event, BodiesErased):
            yield one.position, one.event.positions


def joined_segments(archive: Archive) -> Sequence[Segment]:
    """Return the segments of an archive, which follow each other from the beginning of a log.

    Raises `SegmentUnusable` for the first one that does not.
    """
    stored, unusable = archive.segments()
    if unusable:
        raise unusable[0]
    # Of several files with the same events, the one without erased bodies comes first.
    segments = [next(same) for _, same in groupby(stored, lambda one: (one.first, one.last))]
    if not segments:
        raise SegmentUnusable(f"There are no segments in {archive.location}; check --archive.")
    for fault in sequence_faults(segments):
        raise SegmentUnusable(f"The archive in {archive.location} is not whole: {fault}.")
    return segments


def require_joined(fairlog: Fairlog, connection: Connection, segments: Sequence[Segment]) -> None:
    """Refuse an archive that the first event after it does not continue."""
    last = segments[-1]
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    end = fairlog.log.position(connection)
    if last.last > end:
        raise SegmentUnusable(
            f"The archive ends at event {last.last} and the log at {end}: check --archive and "
            "--database-url, which belong to different logs or times."
        )
    following = log.rows(connection, last.last, 1)
    if not following:  # all of the log is archived, and the head names its last hash
        head = log.head(connection)
        if head is None or head.hash.hex() != last.last_hash:
            raise _of_another_log(last)
    elif following[0][0] != last.last + 1:
        raise SegmentUnusable(
            f"The archive ends at event {last.last}, and the database begins at "
            f"{following[0][0]}: segments are missing; check --archive."
        )
    elif link(bytes.fromhex(last.last_hash), leaf_of(following[0]).hash) != following[0][7]:
        raise _of_another_log(last)


def _of_another_log(segment: Segment) -> SegmentUnusable:
    return SegmentUnusable(
        f"The database does not continue the segment {segment.name}: it belongs to another log; "
        "check --archive and --database-url."
    )
