"""The fold up to a cut of the log, and what may be left out of its snapshot there.

What is left out of the snapshot is deleted from the live tables too, by the same rules, so that the
live rows are those that a rebuild from the snapshot gives:

- jobs that have ended, unless their key still holds, a handler may still run, a job is still to be
  told of the end of another, or a later event has changed them (`kept`);
- full tiles of the Merkle tree, which `log_tiles` has;
- snapshots of the system's state before the cut.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.jobs.job import ENDED, Job
from domain.language.events import Recorded
from domain.language.identifiers import JobId
from domain.log.stored_log import StoredRow, leaf_of, recorded
from projections.following.async_projection import AsyncProjection, apply_events
from projections.following.merkle import MerkleProjection, full_tiles, tiles
from projections.following.snapshots import SnapshotsProjection, snapshots
from projections.inline.job_documents import decode_job
from projections.inline.jobs import STATE_NUMBERS, jobs
from projections.rebuild.fold import GenerationFold
from projections.storage.generations import InlineProjection, Tabled
from projections.storage.rows import Row, create_for_folding, delete, remove_some
from projections.storage.snapshot import (
    BODIES,
    EVENTS,
    SnapshotPart,
    lists_of,
    parts_of,
    restore,
)

GENERATION: Final = 1
JOBS_PER_PAGE: Final = 2000
TILES_PER_DELETE: Final = 500
STATES_PER_DELETE: Final = 20  # parts, of up to 1 MiB
Removal = Callable[[Connection], int]  # deletes some rows, and returns how many

_ENDED: Final = [STATE_NUMBERS[state] for state in ENDED]


class CutFold:
    """Folds the log into all projections, in a scratch database, from one cut to the next."""

    def __init__(
        self,
        scratch: Connection,
        inline: Sequence[InlineProjection],
        following: Sequence[AsyncProjection[Recorded]],
        merkle: MerkleProjection,
        snapshots: SnapshotsProjection,
        position: int,
        stored: Iterable[SnapshotPart],
    ) -> None:
        """`stored` is the snapshot at `position`, where the earlier cut was; empty at 0."""
        self.projections: Sequence[Tabled] = [*inline, *following, snapshots, merkle]
        self._scratch = scratch
        self._following = [*following, snapshots]
        self._merkle = merkle
        self._snapshots = snapshots
        for projection in self.projections:
            create_for_folding(scratch, projection.tables)
        self._fold = GenerationFold(
            [(one, GENERATION) for one in inline], events_expected=0, after=position
        )
        restore(
            stored,
            [(one, GENERATION) for one in self.projections],
            lambda write: write(scratch),
            self._fold.know,
        )

    @property
    def position(self) -> int:
        return self._fold.position

    def take(self, rows: Sequence[StoredRow]) -> None:
        """Fold the next events. Raises any error for rows that Fairlog never writes."""
        events = [recorded(row) for row in rows]
        self._fold.take(self._scratch, events)
        if self._fold.is_save_due:
            for write in self._fold.take_due_changes():
                write(self._scratch)
        for projection in self._following:
            apply_events(projection, self._scratch, GENERATION, events)
        apply_events(self._merkle, self._scratch, GENERATION, [leaf_of(row) for row in rows])

    def state(self) -> bytes:
        """Return the snapshot of the system's state after the events that were folded."""
        return self._snapshots.snapshot_at(self._scratch, GENERATION, self.position)

    def finish(self, recorded_at: datetime, kept: Collection[JobId]) -> list[JobId]:
        """Write the rest, leave out what the snapshot leaves out, and return the jobs it has.

        `recorded_at` (UTC) is that of the last event folded; `kept` are jobs that later events have
        changed.
        """
        self._fold.save(self._scratch)
        self._snapshots.store_at(self._scratch, GENERATION, self.position)
        ended = [
            job.id
            for job in _ended_jobs(self._scratch, GENERATION, self.position)
            if job.id not in kept and not is_needed(job, recorded_at)
        ]
        delete(self._scratch, jobs, GENERATION, [(job_id,) for job_id in ended])
        for remove in removals(GENERATION, GENERATION, self.position):
            while remove(self._scratch):
                pass
        ids = self._scratch.execute(sa.select(jobs.c.id).order_by(jobs.c.id)).scalars()
        return [JobId(job_id) for job_id in ids]

    def full_tiles(self, after: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield level, number and hashes of each tile that is full now and was not at a position.

        Call it before `finish`, which removes them.
        """
        before = dict(full_tiles(after))
        for level, number in full_tiles(self.position):
            rows = self._scratch.execute(
                sa.select(tiles.c.tile, tiles.c.hashes)
                .where(
                    tiles.c.generation == GENERATION,
                    tiles.c.level == level,
                    tiles.c.tile >= before.get(level, 0),
                    tiles.c.tile < number,
                )
                .order_by(tiles.c.tile)
            )
            for tile, hashes in rows:
                yield level, tile, bytes(hashes)

    def parts(self, bodies: Iterable[Row], events: Iterable[Row]) -> Iterator[SnapshotPart]:
        """Yield the snapshot, after `finish`, with the lists of bodies and events that stay."""
        yield from parts_of(self._scratch, GENERATION, self.projections)
        yield from lists_of(BODIES, bodies)
        yield from lists_of(EVENTS, events)


def is_needed(job: Job, now: datetime) -> bool:
    """Return True if a job that has ended may still matter to a later event."""
    if job.children or job.waits_for:  # it is to be told of an end, or others of its own
        return True
    return bool(job.ending) or (job.holds_key and job.key_may_be_valid(now))


def _ended_jobs(connection: Connection, generation: int, up_to: int) -> Iterator[Job]:
    after = 0
    while True:
        rows = connection.execute(
            sa.select(jobs.c.id, jobs.c.state, jobs.c.job)
            .where(jobs.c.generation == generation, jobs.c.id > after, jobs.c.id <= up_to)
            .order_by(jobs.c.id)
            .limit(JOBS_PER_PAGE)
        ).all()
        if not rows:
            return
        yield from (decode_job(row.job) for row in rows if row.state in _ENDED)
        after = rows[-1].id


def remove_jobs(
    connection: Connection, generation: int, after: int, up_to: int, kept: Collection[JobId]
) -> int:
    """Delete the next jobs after an id that the snapshot at `up_to` does not have; return the id up
    to which they are gone.
    """
    ids = (
        connection.execute(
            sa.select(jobs.c.id)
            .where(jobs.c.generation == generation, jobs.c.id > after, jobs.c.id <= up_to)
            .order_by(jobs.c.id)
            .limit(JOBS_PER_PAGE)
        )
        .scalars()
        .all()
    )
    delete(connection, jobs, generation, [(job_id,) for job_id in ids if job_id not in kept])
    return ids[-1] if len(ids) == JOBS_PER_PAGE else up_to


def removals(states: int, tree: int, cut: int) -> list[Removal]:
    """Return the deletions of all rows but jobs that the snapshot at a cut leaves out.

    These are states of the system from before the cut, of the generation `states`, and tiles that
    are full at the cut, of the generation `tree`. `cut` is a position. A deletion removes a bounded
    number of rows: call each until it returns 0.
    """
    found: list[Removal] = [
        lambda connection: remove_some(
            connection, snapshots, states, STATES_PER_DELETE, snapshots.c.position < cut
        )
    ]
    for level, number in full_tiles(cut):
        full = sa.and_(tiles.c.level == level, tiles.c.tile < number)
        found.append(partial(_remove_tiles, generation=tree, full=full))
    return found


def _remove_tiles(connection: Connection, generation: int, full: sa.ColumnElement[bool]) -> int:
    return remove_some(connection, tiles, generation, TILES_PER_DELETE, full)
