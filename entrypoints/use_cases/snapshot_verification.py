"""Compares the snapshot where the log is cut with a fold of everything before it, from segments.

`fairlog verify` compares the stored snapshot with the digest in the log. This says whether the log
gives that digest: a snapshot that was wrong when it was made would pass the other check.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.engine import Connection

from adapters.archive.archived_log import ArchivedLog
from adapters.archive.whole_log import WholeLog
from adapters.database.scratch import scratch_database
from adapters.log import archived
from domain.language.events import EVENT_TYPES, ArchiveBegun, SegmentArchived, named_body
from domain.language.identifiers import JobId
from domain.log.segments import naming_events
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archiving import changed_later, fold_to_cut
from entrypoints.use_cases.whole_history import erased_bodies
from projections.rebuild.cut import CutFold
from projections.storage.rows import Row
from projections.storage.snapshot import (
    Digest,
    packed,
    unpacked,
)
from projections.verify.verify import Progress

ROWS_PER_PAGE: Final = 4_000


def snapshot_fault(fairlog: Fairlog, segments: ArchivedLog, progress: Progress) -> str | None:
    """Return what is wrong with the latest snapshot; None if it is what the segments give, if there
    is none, or if it is of another release, whose tables this one does not fold.
    """
    with fairlog.database.read() as connection:
        cut = fairlog.log.cut(connection)
        named = [
            one
            for one in naming_events(archived.segment_names(connection))
            if isinstance(one, SegmentArchived) and one.last == cut.position
        ]
    if not cut.position or not named:
        return None
    latest = named[-1]
    with scratch_database() as scratch:
        fold = fold_to_cut(scratch, WholeLog(fairlog.log, segments).read)
        if not _is_of_this_release(fairlog, fold, cut.snapshot):
            return None
        while fold.position < cut.position:
            limit = min(ROWS_PER_PAGE, cut.position - fold.position)
            fold.take(segments.rows(fold.position, limit))
            progress(fold.position, cut.position)
        found = _digest(fairlog, segments, fold, latest)
    if found == latest.snapshot_sha256:
        return None
    return (
        f"the snapshot at position {cut.position} has the digest {latest.snapshot_sha256}, and a "
        f"fold of the events before it gives {found}"
    )


def _is_of_this_release(fairlog: Fairlog, fold: CutFold, snapshot: int) -> bool:
    versions = {one.name: one.version for one in fold.projections}
    with fairlog.database.read() as connection:
        stored = unpacked(fairlog.log.snapshot_parts(connection, snapshot))
        return all(versions.get(part.projection, part.version) == part.version for part in stored)


def _digest(
    fairlog: Fairlog,
    segments: ArchivedLog,
    fold: CutFold,
    latest: SegmentArchived,
) -> str:
    cut = fold.position
    with fairlog.database.read() as connection:
        [begun] = [
            one.event
            for one in WholeLog(fairlog.log, segments).read(connection, latest.begun - 1, 1)
        ]
        assert isinstance(begun, ArchiveBegun), begun
        jobs = fold.finish(begun.recorded_at, changed_later(connection, cut, latest.begun))
        stay = _bodies(connection, segments, jobs, latest)
        events = archived.kept_rows(connection, cut)
    digest = Digest()
    for part in fold.parts(stay, events):
        packed(part, digest)
    return digest.hex()


def _bodies(
    connection: Connection,
    segments: ArchivedLog,
    jobs: Sequence[JobId],
    latest: SegmentArchived,
) -> list[Row]:
    """Return job, position, SHA-256 in hex and size of the archived bodies that stayed for these
    jobs. Those that were erased before the archive are in neither list.
    """
    erased = erased_bodies(connection, segments, latest.begun)
    found: list[Row] = []
    for one in segments.of_jobs(jobs, list(EVENT_TYPES), latest.last):
        body = named_body(one.event)
        if body is not None and one.position not in erased:
            found.append((one.job_id, one.position, *body))
    return sorted(found)
