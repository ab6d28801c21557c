"""Jobs whose live row was confirmed: it is equal to what the log gives.

Live rows of confirmed jobs replace rows in the scratch database, which holds only jobs that have
not ended and jobs that differ: writing all jobs there takes longer (ADR 35). If an event names a
confirmed job again, it is read from its live row, which is known to be what the log gave so far.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.jobs.job import ENDED
from domain.language.identifiers import JobId
from projections.inline.jobs import JobsProjection, jobs, prefixes, row_of
from projections.storage.rows import Query, Row, delete, deleting, fetch, insert
from projections.verify.log_pages import LogPages
from projections.verify.row_digests import same_rows

ROWS_PER_PAGE: Final = 1000
_id_by_key: Final = Query(jobs, [jobs.c.id], by=jobs.c.key_hash)


class ConfirmedJobs(JobsProjection):
    """The jobs projection in the scratch database, without the jobs that are confirmed."""

    def __init__(self, pages: LogPages, live_generation: int) -> None:
        """`pages` runs the queries on the live rows, which have the generation given."""
        self._pages = pages
        self._live_generation = live_generation
        self._confirmed = _BitSet()

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        super().load(connection, generation, required, model)
        confirmed = RequiredRows(
            jobs={
                job_id
                for job_id in required.jobs.union(self._key_holders(required.keys))
                if job_id in self._confirmed and job_id not in model.jobs.rows
            }
        )
        if confirmed.jobs:
            load = JobsProjection().load
            self._pages.query(lambda live: load(live, self._live_generation, confirmed, model))
            required.add(confirmed)

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        known, keys, changed = model.jobs.rows, model.jobs.keys, model.jobs.changed
        self._confirmed.discard(changed)
        ended = [
            row_of(generation, (known[job_id], keys.get(job_id)))[1:]
            for job_id in sorted(changed)
            if known[job_id].state in ENDED
        ]
        confirmed = self._confirm(ended)
        changed.difference_update(confirmed)
        return [
            deleting(jobs, generation, [(job_id,) for job_id in confirmed]),
            *super().take_changes(generation, model),
        ]

    def confirm_rest(self, scratch: Connection, generation: int) -> None:
        """Confirm jobs that have not ended, at the end of the log."""
        after = 0
        while rows := _page(scratch, generation, after):
            delete(scratch, jobs, generation, [(job_id,) for job_id in self._confirm(rows)])
            after = rows[-1][0]

    def are_complete(self, live: Connection, scratch: Connection) -> bool:
        """Return True if every job is confirmed and no other live row exists."""
        is_any_left = scratch.execute(sa.select(jobs.c.id).limit(1)).first() is not None
        count = sa.select(sa.func.count()).where(jobs.c.generation == self._live_generation)
        return not is_any_left and live.execute(count).scalar_one() == len(self._confirmed)

    def copy_to_scratch(self, live: Connection, scratch: Connection, generation: int) -> None:
        """Copy the confirmed jobs into the scratch database, which then has all jobs."""
        after = 0
        while rows := _page(live, self._live_generation, after):
            confirmed = [(generation, *row) for row in rows if row[0] in self._confirmed]
            insert(scratch, jobs, confirmed)
            after = rows[-1][0]

    def _key_holders(self, keys: Collection[bytes]) -> Iterable[JobId]:
        """Return the jobs that may hold these keys by the live rows."""
        if not keys:
            return ()
        found = self._pages.query(
            lambda live: fetch(live, self._live_generation, (_id_by_key, prefixes(keys)))
        )
        return [job_id for (job_id,) in found]

    def _confirm(self, rows: Sequence[Row]) -> list[JobId]:
        """Compare rows, in the order of their ids, with the live ones; return the ids confirmed."""
        confirmed: list[JobId] = []
        for start in range(0, len(rows), ROWS_PER_PAGE):
            page = rows[start : start + ROWS_PER_PAGE]
            same = partial(same_rows, table=jobs, generation=self._live_generation, rows=page)
            confirmed += [row[0] for row in self._pages.query(same)]
        self._confirmed.add(confirmed)
        return confirmed


def _page(connection: Connection, generation: int, after: int) -> list[Row]:
    """Return rows after an id, without their generation."""
    found = connection.execute(
        sa.select(*list(jobs.c)[1:])
        .where(jobs.c.generation == generation, jobs.c.id > after)
        .order_by(jobs.c.id)
        .limit(ROWS_PER_PAGE)
    )
    return list(map(tuple, found))


class _BitSet:
    """A set of positions, one bit each, in blocks that are allocated when they are needed."""

    def __init__(self) -> None:
        self._blocks: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(4096))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, position: object) -> bool:
        """Return True for a member; the id of a live row in SQLite need not be a number."""
        if not isinstance(position, int):
            return False
        bits = self._blocks.get(position >> 15)
        return bits is not None and bool(bits[position >> 3 & 4095] >> (position & 7) & 1)

    def add(self, positions: Iterable[int]) -> None:
        """Add positions that are not members yet."""
        for position in positions:
            self._blocks[position >> 15][position >> 3 & 4095] |= 1 << (position & 7)
            self._count += 1

    def discard(self, positions: Iterable[int]) -> None:
        for position in positions:
            if position in self:
                self._blocks[position >> 15][position >> 3 & 4095] ^= 1 << (position & 7)
                self._count -= 1
