"""Jobs that are by the log what their live rows say: in a check those rows stand for them.

So the scratch database holds the others alone: jobs that go on, and jobs that differ. A settled job
that an event names again is read back from its live row, which is what the log gave so far.
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
from projections.inline.jobs import JobsProjection, jobs, row_of
from projections.storage.rows import Query, Row, delete, deleting, fetch, insert
from projections.verify.log_pages import LogPages
from projections.verify.row_digests import same_rows

ROWS_PER_PAGE: Final = 1000
_id_by_key: Final = Query(jobs, [jobs.c.id], by=jobs.c.key_hash)


class SettledJobs(JobsProjection):
    """The projection of jobs, beside its live rows of a generation."""

    def __init__(self, pages: LogPages, live_generation: int) -> None:
        """`pages`: whoever asks the live database meanwhile."""
        self._pages = pages
        self._live_generation = live_generation
        self._settled = _Marks()

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        super().load(connection, generation, required, model)
        settled = RequiredRows(
            jobs={
                job_id
                for job_id in required.jobs.union(self._holders(required.keys))
                if job_id in self._settled and job_id not in model.jobs.rows
            }
        )
        if settled.jobs:
            load = JobsProjection().load
            self._pages.ask(lambda live: load(live, self._live_generation, settled, model))
            required.add(settled)

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        known, keys, changed = model.jobs.rows, model.jobs.keys, model.jobs.changed
        self._settled.discard(changed)
        ended = [
            row_of(generation, (known[job_id], keys.get(job_id)))[1:]
            for job_id in sorted(changed)
            if known[job_id].state in ENDED
        ]
        settled = self._settle(ended)
        changed.difference_update(settled)
        return [
            deleting(jobs, generation, [(job_id,) for job_id in settled]),
            *super().take_changes(generation, model),
        ]

    def settle_rest(self, scratch: Connection, generation: int) -> None:
        """At the end of the log: jobs that go on may be what their live rows say, too."""
        after = 0
        while rows := _page(scratch, generation, after):
            delete(scratch, jobs, generation, [(job_id,) for job_id in self._settle(rows)])
            after = rows[-1][0]

    def are_all(self, live: Connection, scratch: Connection) -> bool:
        """Whether every job is settled, and there are no other live ones."""
        is_any_left = scratch.execute(sa.select(jobs.c.id).limit(1)).first() is not None
        count = sa.select(sa.func.count()).where(jobs.c.generation == self._live_generation)
        return not is_any_left and live.execute(count).scalar_one() == len(self._settled)

    def write_out(self, live: Connection, scratch: Connection, generation: int) -> None:
        """Put the settled ones into the scratch database too, which then has all of them."""
        after = 0
        while rows := _page(live, self._live_generation, after):
            settled = [(generation, *row) for row in rows if row[0] in self._settled]
            insert(scratch, jobs, settled)
            after = rows[-1][0]

    def _holders(self, keys: Collection[bytes]) -> Iterable[JobId]:
        """Whose keys these are by the live rows."""
        if not keys:
            return ()
        found = self._pages.ask(lambda live: fetch(live, self._live_generation, (_id_by_key, keys)))
        return [job_id for (job_id,) in found]

    def _settle(self, rows: Sequence[Row]) -> list[JobId]:
        """Those of the rows, in the order of their ids, that are live just so."""
        settled: list[JobId] = []
        for start in range(0, len(rows), ROWS_PER_PAGE):
            page = rows[start : start + ROWS_PER_PAGE]
            same = partial(same_rows, table=jobs, generation=self._live_generation, rows=page)
            settled += [row[0] for row in self._pages.ask(same)]
        self._settled.add(settled)
        return settled


def _page(connection: Connection, generation: int, after: int) -> list[Row]:
    """Rows behind an id, without their generation."""
    found = connection.execute(
        sa.select(*list(jobs.c)[1:])
        .where(jobs.c.generation == generation, jobs.c.id > after)
        .order_by(jobs.c.id)
        .limit(ROWS_PER_PAGE)
    )
    return list(map(tuple, found))


class _Marks:
    """A set of positions in a bit each, of the stretches in which there are any."""

    def __init__(self) -> None:
        self._stretches: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(4096))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, position: object) -> bool:
        """SQLite keeps whatever it is given: a live row's id need not be a number."""
        if not isinstance(position, int):
            return False
        bits = self._stretches.get(position >> 15)
        return bits is not None and bool(bits[position >> 3 & 4095] >> (position & 7) & 1)

    def add(self, positions: Iterable[int]) -> None:
        """None of them may be in it."""
        for position in positions:
            self._stretches[position >> 15][position >> 3 & 4095] |= 1 << (position & 7)
            self._count += 1

    def discard(self, positions: Iterable[int]) -> None:
        for position in positions:
            if position in self:
                self._stretches[position >> 15][position >> 3 & 4095] ^= 1 << (position & 7)
                self._count -= 1
