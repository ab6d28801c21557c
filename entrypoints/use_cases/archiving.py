"""`fairlog archive`: moves the oldest part of the log into segment files, while the service runs.

The steps can be stopped anywhere, and a further run goes on:

1. `ArchiveBegun` closes the jobs that had ended at the cut: no later event is about them.
2. The events up to the cut are read once; they are written to segments and folded into a snapshot.
3. Each segment is read back from where it lies and compared with the rows.
4. `SegmentArchived`, one for each segment, in one transaction: from then on the log begins at the
   cut, and the rows before it may be deleted.
5. The rows are deleted in small steps, and `ArchiveCompleted` records it.
6. Bodies that were erased after they went into a segment, such as those of a job that was open at
   the cut, are removed from it: see `segment_erasure`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.archive.directory import Archive
from adapters.archive.segment_format import StoredState
from adapters.archive.source import bodies_between, row_pages
from adapters.database.scratch import scratch_database
from adapters.log import archived, audit_log
from adapters.log.stored_log import SqlStoredLog
from adapters.log.tables import bodies, events
from domain.audit.system_state import FORMAT
from domain.decisions.answers import ArchiveChanged
from domain.decisions.ports import Cut
from domain.language.commands import (
    ArchiveSegments,
    BeginArchive,
    SaveProjections,
)
from domain.language.errors import ArchiveConflict, FairlogError, InvalidInput
from domain.language.events import BodiesErased, Recorded
from domain.language.identifiers import JobId
from domain.log.segments import Segment, archived_event
from domain.log.stored_log import StoredRow, leaf_of
from entrypoints.runtime.interpreter import tuned_for_one_pass
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_deletion import Progress, finish
from entrypoints.use_cases.segment_erasure import rewrite_segments
from projections.activity.projection import ActivityProjection
from projections.following.async_projection import Read
from projections.following.merkle import MerkleProjection
from projections.following.snapshots import SnapshotsProjection
from projections.inline.live import inline_projections
from projections.rebuild.cut import CutFold
from projections.storage.rows import Row
from projections.storage.snapshot import (
    BODIES,
    Digest,
    SnapshotPart,
    packed,
    unpacked,
)

EVENTS_PER_SEGMENT: Final = 250_000
TILES_PER_WRITE: Final = 64
POSITIONS_PER_READ: Final = 20_000


class ArchiveDone(Struct, frozen=True):
    """The result of `archive`."""

    first: int = 0  # position of the first event that was archived; 0: there was nothing to archive
    last: int = 0
    segments: Sequence[Segment] = ()


def archive(fairlog: Fairlog, place: Archive, cut: int, progress: Progress) -> ArchiveDone:
    """Archive the log up to `cut`, which `cut_before` returned. The writer must run.

    Raises `ArchiveConflict` if another archive began meanwhile, `ArchiveUnavailable` and
    `SegmentUnusable`; then nothing was deleted, and it can be called again.
    """
    place.check_writable()
    finish(fairlog, progress)
    before = fairlog.read_now(fairlog.log.cut)
    if cut <= before.position:
        if before.position:
            _remove_erased(fairlog, place, progress)
        return ArchiveDone()
    log_id = _prepare_place(fairlog, place, before)
    times = fairlog.read_now(partial(audit_log.times_at, positions=[cut]))
    fairlog.execute_now(SaveProjections())
    begin = fairlog.execute_now(BeginArchive(last=cut, recorded_at=times[cut]))
    assert isinstance(begin, ArchiveChanged), begin
    try:
        with tuned_for_one_pass(), scratch_database() as scratch:
            with fairlog.database.read() as connection:
                stored = unpacked(fairlog.log.snapshot_parts(connection, before.snapshot))
                fold = fold_to_cut(scratch, fairlog.log.read, before.position, stored)
            segments = _write(fairlog, place, log_id, fold, before, cut, progress)
            for segment in segments:
                _read_back(fairlog, place, segment)
                progress("comparing", segment.last - before.position, cut - before.position)
            digest = _store_snapshot(fairlog, fold, before, begin.begun, times[cut])
    except FairlogError:
        now = fairlog.read_now(fairlog.log.cut)
        if now != before:  # another archive has deleted what this one was reading
            raise ArchiveConflict(now.position) from None
        raise
    *earlier, last = segments
    declared = [archived_event(one, begin.begun, None) for one in earlier]
    declared.append(archived_event(last, begin.begun, digest))
    fairlog.execute_now(ArchiveSegments(segments=tuple(declared)))
    finish(fairlog, progress)
    _remove_erased(fairlog, place, progress)
    return ArchiveDone(before.position + 1, cut, segments)


def _remove_erased(fairlog: Fairlog, place: Archive, progress: Progress) -> None:
    rewrite_segments(fairlog, place, partial(progress, "removing erased bodies"))


def _prepare_place(fairlog: Fairlog, place: Archive, before: Cut) -> str:
    """Refuse a place that has not the earlier segments or has others, and remove the segments of an
    archive that was stopped, which no event names. Returns the id of the log.
    """
    named = fairlog.read_now(archived.segments)
    if named:
        log_id = named[0].log_id
    else:
        [first] = fairlog.read_now(partial(_stored_log(fairlog).rows, after=0, limit=1))
        log_id = leaf_of(first).hash.hex()
    found, unusable = place.segments()
    if unusable:
        raise unusable[0]
    names = {one.name for one in named}
    for one in found:
        if one.log_id != log_id:
            raise InvalidInput(
                f"{place.location} has the segment {one.name} of another log: give each log a "
                "place of its own."
            )
        if not before.position and one.name in names:
            raise InvalidInput(
                f"The log was restored from segments like {one.name}: archive it to a new place, "
                "and keep those until `fairlog verify --archive` finds the new ones clean."
            )
    missing = names - {one.name for one in found}
    if before.position and missing:
        raise InvalidInput(
            f"{place.location} does not have the segment {min(missing)}, which was archived "
            "before: give the place of the earlier segments, or bring it back there."
        )
    for one in found:
        if one.name not in names and one.first > before.position:
            place.remove(one.name)  # the others are of an erasure, see `segment_erasure`
    return log_id


def _stored_log(fairlog: Fairlog) -> SqlStoredLog:
    return SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)


def fold_to_cut(
    scratch: Connection,
    read: Read[Recorded],
    position: int = 0,
    stored: Iterable[SnapshotPart] = (),
) -> CutFold:
    """Return a fold of all projections into a scratch database, from an earlier cut at `position`,
    with the snapshot there; 0: from the first event. `read` reads events of the log.
    """
    return CutFold(
        scratch,
        inline_projections(),
        [ActivityProjection()],
        MerkleProjection(),
        SnapshotsProjection(read),
        position,
        stored,
    )


def _write(
    fairlog: Fairlog,
    place: Archive,
    log_id: str,
    fold: CutFold,
    before: Cut,
    cut: int,
    progress: Progress,
) -> list[Segment]:
    """Write the events up to the cut as segments, each with the state that their fold gives."""
    log = _stored_log(fairlog)
    segments: list[Segment] = []
    after, last_hash = before.position, before.hash

    def folded(pages: Iterator[Sequence[StoredRow]]) -> Iterator[Sequence[StoredRow]]:
        for page in pages:
            yield page  # it is checked before it is folded
            fold.take(page)
            progress("writing", page[-1][0] - before.position, cut - before.position)

    while after < cut:
        end = min(cut, after + EVENTS_PER_SEGMENT)
        with fairlog.database.read() as rows, fairlog.database.read() as contents:
            segment = place.write(
                folded(row_pages(log, rows, after, end)),
                bodies_between(contents, after, end),
                first=after + 1,
                previous_hash=last_hash,
                log_id=log_id,
                state=lambda: StoredState(FORMAT, fold.state()),
            )
        segments.append(segment)
        after, last_hash = end, bytes.fromhex(segment.last_hash)
    return segments


def _read_back(fairlog: Fairlog, place: Archive, segment: Segment) -> None:
    after, end = segment.first - 1, segment.last
    with fairlog.database.read() as rows, fairlog.database.read() as contents:
        pages = row_pages(_stored_log(fairlog), rows, after, end)
        place.read_back(segment, pages, bodies_between(contents, after, end))


def _store_snapshot(
    fairlog: Fairlog, fold: CutFold, before: Cut, begun: int, recorded_at: datetime
) -> str:
    """Store the full tiles and the snapshot, and return its digest."""
    full = fold.full_tiles(before.position)
    while page := list(islice(full, TILES_PER_WRITE)):
        with fairlog.database.write() as connection:
            archived.store_tiles(connection, page)
    cut = fold.position
    with fairlog.database.read() as connection:
        jobs = fold.finish(recorded_at, changed_later(connection, cut, begun))
        stay = _bodies_of(fairlog, connection, jobs, before, cut)
        events_that_stay = archived.kept_rows(connection, cut)
    digest = Digest()
    for number, part in enumerate(fold.parts(stay, events_that_stay)):
        data = packed(part, digest)
        with fairlog.database.write() as connection:
            archived.store_snapshot_part(connection, begun, number, data)
    return digest.hex()


def changed_later(connection: Connection, cut: int, begun: int) -> set[JobId]:
    """Return the jobs that events between the cut and the begin of the archive have changed, so
    that a later one may change them again. An erasure is the last event of a job.
    """
    found: set[JobId] = set()
    for start in range(cut, begun, POSITIONS_PER_READ):
        rows = connection.execute(
            sa.select(events.c.job_id)
            .where(
                events.c.position > start,
                events.c.position <= min(begun, start + POSITIONS_PER_READ),
                events.c.job_id <= cut,
                events.c.type != BodiesErased.__name__,
            )
            .distinct()
        )
        found.update(JobId(job_id) for (job_id,) in rows)
    return found


def _bodies_of(
    fairlog: Fairlog, connection: Connection, jobs: Sequence[JobId], before: Cut, cut: int
) -> list[Row]:
    """Return job, position, SHA-256 in hex and size of the archived bodies of these jobs."""
    wanted = set(jobs)
    found: list[Row] = []
    for part in unpacked(fairlog.log.snapshot_parts(connection, before.snapshot)):
        if part.projection == BODIES:
            rows = [row for row in part.rows if row[0] in wanted]
            stored = audit_log.body_sizes(connection, [row[1] for row in rows])
            found += [row for row in rows if row[1] in stored]  # the others were erased
    for start in range(0, len(jobs), 500):
        some = jobs[start : start + 500]
        rows_found = connection.execute(
            sa.select(events.c.job_id, bodies.c.position, bodies.c.body)
            .join(bodies, bodies.c.position == events.c.position)
            .where(
                events.c.job_id.in_(some),
                events.c.position > before.position,
                events.c.position <= cut,
            )
        )
        for job_id, position, body in rows_found:
            found.append((job_id, position, sha256(body).hexdigest(), len(body)))
    return sorted(found)
