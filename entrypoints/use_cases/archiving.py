"""`fairlog archive`: moves the oldest part of the log into segment files, while the service runs.

The steps can be stopped anywhere, and a further run goes on:

1. `ArchiveBegun` closes the jobs that had ended at the cut: no later event is about them.
2. The events up to the cut are read once; they are written to segments and folded into a snapshot.
3. Each segment is read back from where it lies and compared with the rows.
4. `SegmentArchived`, one for each segment, in one transaction: from then on the log begins at the
   cut, and the rows before it may be deleted.
5. The rows are deleted in small steps, and `ArchiveCompleted` records it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.archive.directory import Archive
from adapters.archive.source import bodies_between, row_pages
from adapters.database.scratch import scratch_database
from adapters.log import archived, audit_log
from adapters.log.stored_log import SqlStoredLog
from adapters.log.tables import bodies, events
from domain.decisions.ports import Cut
from domain.language.commands import (
    ArchiveSegments,
    BeginArchive,
    Command,
    CompleteArchive,
    SaveProjections,
)
from domain.language.errors import ArchiveConflict, FairlogError, InvalidInput, fresh_copy
from domain.language.events import SegmentArchived
from domain.language.identifiers import JobId
from domain.language.moments import from_micros, to_micros
from domain.log.segments import Segment
from domain.log.stored_log import StoredRow, leaf_of
from entrypoints.service.fairlog import Fairlog
from projections.activity.projection import LOG_KEPT_SECONDS, ActivityProjection
from projections.following.merkle import MerkleProjection
from projections.following.snapshots import SPACING, SnapshotsProjection, snapshots
from projections.inline.live import inline_projections
from projections.rebuild.cut import CutFold, removal_of_states, removals_of_tiles, remove_jobs
from projections.rebuild.cut_rows import cut_bodies, cut_job_ids
from projections.storage import registry
from projections.storage.rows import Row, upsert
from projections.storage.snapshot import (
    BODIES,
    EVENTS,
    Digest,
    lists_of,
    packed,
    parts_of,
    unpacked,
)
from projections.verify.event_check import recorded

EVENTS_PER_SEGMENT: Final = 250_000
TILES_PER_WRITE: Final = 64
POSITIONS_PER_READ: Final = 20_000
REST: Final = 1.0  # pause after a step of the deletion, as a multiple of the step's time

Progress = Callable[[str, int, int], None]  # what is being done, events done, events of this step


_Step = Callable[..., int]  # of a deletion; returns the position that it has reached


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
        return ArchiveDone()
    _prepare_place(fairlog, place, before)
    recorded_at = fairlog.read_now(lambda connection: audit_log.times_at(connection, [cut])[cut])
    begun = _execute(fairlog, [SaveProjections(), BeginArchive(last=cut, recorded_at=recorded_at)])
    try:
        with scratch_database() as scratch:
            fold = _fold(fairlog, scratch, before)
            segments = _write(fairlog, place, fold, before, cut, progress)
            for segment in segments:
                _read_back(fairlog, place, segment, progress)
            digest = _store_snapshot(fairlog, scratch, fold, before, begun, recorded_at)
    except FairlogError:
        now = fairlog.read_now(fairlog.log.cut)
        if now != before:  # another archive has deleted what this one was reading
            raise ArchiveConflict(now.position) from None
        raise
    _execute(fairlog, [ArchiveSegments(segments=_events_of(segments, begun, digest))])
    finish(fairlog, progress)
    return ArchiveDone(before.position + 1, cut, segments)


def _prepare_place(fairlog: Fairlog, place: Archive, before: Cut) -> None:
    """Refuse a place that has not the earlier segments or has others, and remove the segments of an
    archive that was stopped, which no event names.
    """
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    named = fairlog.read_now(archived.segments)
    if before.position:
        log_id = named[-1].log_id
    else:
        log_id = fairlog.read_now(
            lambda connection: leaf_of(log.rows(connection, 0, 1)[0])
        ).hash.hex()
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
        if one.name not in names:
            place.remove(one.name)


def cut_before(fairlog: Fairlog, moment: datetime | None, position: int | None) -> int:
    """Return the latest position where the log can be cut: before a moment (UTC) or a position.

    It is the end of a batch, and projections are folded beyond it. Some days before the latest
    event stay in the log, since the dashboard shows them. Returns 0 if nothing can be archived.
    """

    def find(connection: Connection) -> int:
        log, before = fairlog.log, fairlog.log.cut(connection).position
        end = log.position(connection)
        latest = audit_log.times_at(connection, [end]).get(end) if end else None
        if latest is None:
            return 0
        bounds = [audit_log.first_at(connection, latest - timedelta(seconds=LOG_KEPT_SECONDS))]
        if moment is not None:
            bounds.append(audit_log.first_at(connection, moment))
        if position is not None:
            bounds.append(position)
        checkpoints = [one.checkpoint(connection) for one in fairlog.projector_runner.projectors]
        bounds += [1 if at is None else at.position + 1 for at in checkpoints]
        return _end_of_batch(connection, min(bounds) - 1, before)

    return fairlog.read_now(find)


def check_windows(fairlog: Fairlog, older_than_seconds: float) -> None:
    """Raise `InvalidInput` if a window of a limit is longer than what stays in the log."""
    longest = fairlog.policy.window_seconds
    settings = fairlog.read_now(
        lambda connection: fairlog.windows.set_limits(connection, None, 100_000)
    )
    for _, limits in settings:
        longest = max([longest, *(one.seconds for one in limits.windows or ())])
        if limits.throttle is not None:
            longest = max(longest, int(limits.throttle.seconds))
    if older_than_seconds < longest:
        raise InvalidInput(
            f"A limit counts over a window of {longest} seconds, which would be cut: archive what "
            f"is older than that, with --older-than {longest}s or more."
        )


def finish(fairlog: Fairlog, progress: Progress) -> None:
    """Delete what is archived and still stored, as an earlier run that was stopped may have left
    it.
    """
    cut = fairlog.read_now(fairlog.log.cut)
    if not cut.position or fairlog.read_now(_is_completed):
        return
    with fairlog.database.read() as connection:
        kept_jobs = cut_job_ids(fairlog.log, connection, cut)
        kept_bodies = cut_bodies(fairlog.log, connection, cut)
    _delete_rows(fairlog, cut.position, kept_bodies, progress)
    _trim_projections(fairlog, cut, kept_jobs)
    _execute(fairlog, [CompleteArchive(last=cut.position)])
    # Until then a process may have had an ended job in memory, and written its row again.
    _trim_projections(fairlog, cut, kept_jobs)
    _in_steps(fairlog, lambda connection: archived.remove_other_snapshots(connection, cut.snapshot))


def _execute(fairlog: Fairlog, commands: Sequence[Command]) -> int:
    """Execute commands; return the position of the latest event. Raises the error of one."""
    for outcome in fairlog.writer.execute_all(commands):
        if isinstance(outcome, Exception):
            raise fresh_copy(outcome)
    return fairlog.read_now(archived.latest_of)


def _end_of_batch(connection: Connection, position: int, before: int) -> int:
    """Return the latest position at or before this one that ends a batch and is no multiple of the
    distance of snapshots; 0: there is none after `before`.
    """
    while position > before:
        times = audit_log.times_at(connection, [position, position + 1])
        at = times.get(position)
        if at is None:
            return 0
        if times.get(position + 1, at) > at and position % SPACING:
            return position
        position = min(position, audit_log.first_at(connection, at)) - 1
    return 0


def _fold(fairlog: Fairlog, scratch: Connection, before: Cut) -> CutFold:
    with fairlog.database.read() as connection:
        stored = unpacked(fairlog.log.snapshot_parts(connection, before.snapshot))
        return CutFold(
            scratch,
            inline_projections(),
            [ActivityProjection()],
            MerkleProjection(),
            SnapshotsProjection(fairlog.log.read),
            before.position,
            stored,
        )


def _write(
    fairlog: Fairlog, place: Archive, fold: CutFold, before: Cut, cut: int, progress: Progress
) -> list[Segment]:
    """Write the events up to the cut as segments, and fold them."""
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    segments: list[Segment] = []
    earlier = fairlog.read_now(archived.segments)
    log_id = earlier[0].log_id if earlier else None
    after, last_hash = before.position, before.hash

    def folded(pages: Iterator[Sequence[StoredRow]]) -> Iterator[Sequence[StoredRow]]:
        for page in pages:
            yield page  # it is checked before it is folded
            fold.take([recorded(row) for row in page], [leaf_of(row) for row in page])
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
            )
        segments.append(segment)
        after, last_hash, log_id = end, bytes.fromhex(segment.last_hash), segment.log_id
    return segments


def _read_back(fairlog: Fairlog, place: Archive, segment: Segment, progress: Progress) -> None:
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    after, end = segment.first - 1, segment.last
    with fairlog.database.read() as rows, fairlog.database.read() as contents:
        pages = row_pages(log, rows, after, end)
        place.read_back(segment, pages, bodies_between(contents, after, end))
    progress("comparing", segment.events, segment.events)


def _store_snapshot(
    fairlog: Fairlog,
    scratch: Connection,
    fold: CutFold,
    before: Cut,
    begun: int,
    recorded_at: datetime,
) -> str:
    """Store the full tiles and the snapshot, and return its digest."""
    cut = fold.position
    page: list[tuple[int, int, bytes]] = []
    for tile in fold.full_tiles(before.position):
        page.append(tile)
        if len(page) == TILES_PER_WRITE:
            _write_now(fairlog, partial(archived.store_tiles, tiles=page))
            page = []
    _write_now(fairlog, partial(archived.store_tiles, tiles=page))
    with fairlog.database.read() as connection:
        jobs = fold.finish(recorded_at, changed_later(connection, cut, begun))
        lists = [
            *lists_of(BODIES, _bodies_of(fairlog, connection, jobs, before, cut)),
            *lists_of(EVENTS, archived.kept_rows(connection, cut)),
        ]
    digest = Digest()
    parts = (*parts_of(scratch, 1, fold.projections), *lists)
    for number, part in enumerate(parts):
        data = packed(part, digest)
        _write_now(
            fairlog,
            partial(archived.store_snapshot_part, snapshot=begun, part=number, data=data),
        )
    return digest.hex()


def changed_later(connection: Connection, cut: int, begun: int) -> set[JobId]:
    """Return the jobs that events between the cut and the begin of the archive are about."""
    found: set[JobId] = set()
    for start in range(cut, begun, POSITIONS_PER_READ):
        rows = connection.execute(
            sa.select(events.c.job_id)
            .where(
                events.c.position > start,
                events.c.position <= min(begun, start + POSITIONS_PER_READ),
                events.c.job_id <= cut,
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


def _events_of(segments: Sequence[Segment], begun: int, digest: str) -> tuple[SegmentArchived, ...]:
    return tuple(
        SegmentArchived(
            first=one.first,
            last=one.last,
            first_recorded_at=from_micros(one.first_recorded_at),
            last_recorded_at=from_micros(one.last_recorded_at),
            previous_hash=one.previous_hash,
            last_hash=one.last_hash,
            roots=tuple(one.roots),
            bodies=one.bodies,
            log_id=one.log_id,
            begun=begun,
            name=one.name,
            size=one.size,
            sha256=one.sha256,
            snapshot_sha256=digest if one is segments[-1] else None,
        )
        for one in segments
    )


def segment_of(event: SegmentArchived) -> Segment:
    """Return what an event says of a segment."""
    return Segment(
        first=event.first,
        last=event.last,
        first_recorded_at=to_micros(event.first_recorded_at),
        last_recorded_at=to_micros(event.last_recorded_at),
        previous_hash=event.previous_hash,
        last_hash=event.last_hash,
        roots=list(event.roots),
        bodies=event.bodies,
        log_id=event.log_id,
        name=event.name,
        size=event.size,
        sha256=event.sha256,
    )


def _is_completed(connection: Connection) -> bool:
    """Return True if the latest segment was deleted from the database."""
    completed = archived.latest_of(connection, names=["ArchiveCompleted"])
    return completed > archived.latest_of(connection, names=["SegmentArchived"])


def _delete_rows(
    fairlog: Fairlog, cut: int, kept: dict[JobId, list[int]], progress: Progress
) -> None:
    """Delete the events and bodies up to the cut, except those that stay."""
    stay = sorted(position for some in kept.values() for position in some)
    steps: list[tuple[str, _Step]] = [
        ("deleting bodies", partial(archived.delete_bodies, up_to=cut, kept=stay)),
        ("deleting events", partial(archived.delete_events, up_to=cut)),
    ]
    for what, delete in steps:
        after = 0
        while after < cut:
            after = _rested(fairlog, partial(delete, after=after))
            progress(what, after, cut)


def _trim_projections(fairlog: Fairlog, cut: Cut, kept: set[JobId]) -> None:
    """Make the rows of projections those that a rebuild from the snapshot at the cut would give."""
    with fairlog.database.read() as connection:
        generations = {name: one.generation for name, one in registry.read(connection).items()}
        for part in unpacked(fairlog.log.snapshot_parts(connection, cut.snapshot)):
            if part.table == snapshots.name:
                rows = [(generations["snapshots"], *row) for row in part.rows]
                _write_now(fairlog, partial(upsert, table=snapshots, rows=rows))
    after = 0
    while after < cut.position:
        after = _rested(
            fairlog,
            partial(
                remove_jobs,
                generation=generations["jobs"],
                after=after,
                up_to=cut.position,
                kept=kept,
            ),
        )
    _in_steps(fairlog, removal_of_states(generations["snapshots"], cut.position))
    for remove in removals_of_tiles(generations["merkle"], cut.position):
        _in_steps(fairlog, remove)


def _in_steps(fairlog: Fairlog, remove: Callable[[Connection], int]) -> None:
    while _rested(fairlog, remove):
        pass


def _rested(fairlog: Fairlog, run: Callable[[Connection], int]) -> int:
    """Run a step in a transaction, and leave the database to others for as long as it took."""
    started = time.monotonic()
    found = _write_now(fairlog, run)
    time.sleep((time.monotonic() - started) * REST)
    return found


def _write_now(fairlog: Fairlog, run: Callable[[Connection], int | None]) -> int:
    transaction: AbstractContextManager[Connection] = fairlog.database.write()
    with transaction as connection:
        return run(connection) or 0
