"""Jobs by several conditions at once, newest or oldest first, in time that does not grow.

One condition is served by an index. The others are checked on so many jobs and no more: a page may
end before it is full, and says where to go on.
"""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.jobs.job import Job, State
from domain.language.identifiers import JobId, Kind, UserId
from projections.inline.jobs import STATE_NUMBERS, decode_job, jobs

LOOKED_AT_MAX: Final = 5_000


class JobFilter(Struct, frozen=True, kw_only=True):
    user_id: UserId | None = None
    state: State | None = None
    kind: Kind | None = None

    @property
    def looks_at_many(self) -> bool:
        """True where a condition is left that the index does not serve."""
        return self.kind is not None or (self.user_id is not None and self.state is not None)


class Found(Struct, frozen=True):
    """A page in order of ids, newest first."""

    jobs: Sequence[Job]
    has_newer: bool
    has_older: bool
    looked_down_to: int | None = None  # where the search stopped although the page is not full


class JobSearch:
    """`generation` is the current one, or an expression that gives it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def older(
        self, connection: Connection, wanted: JobFilter, below: int | None, limit: int
    ) -> Found:
        """The jobs next below an id; None: the newest."""
        found, end = self._look(connection, wanted, below, limit + 1, is_upwards=False)
        return Found(
            self._jobs(connection, found[:limit]),
            has_newer=below is not None,
            has_older=len(found) > limit or end is not None,
            looked_down_to=end if len(found) <= limit else None,
        )

    def newer(self, connection: Connection, wanted: JobFilter, above: int, limit: int) -> Found:
        """The jobs next above an id."""
        found, end = self._look(connection, wanted, above, limit + 1, is_upwards=True)
        return Found(
            self._jobs(connection, found[:limit]),
            has_newer=len(found) > limit or end is not None,
            has_older=True,
        )

    def _look(
        self,
        connection: Connection,
        wanted: JobFilter,
        bound: int | None,
        limit: int,
        *,
        is_upwards: bool,
    ) -> tuple[list[int], int | None]:
        """Ids in the order looked at, and the last one looked at if there may be more behind it."""
        query = sa.select(jobs.c.id, jobs.c.state, jobs.c.kind).where(
            jobs.c.generation == self._generation
        )
        if wanted.user_id is not None:
            query = query.where(jobs.c.user_id == wanted.user_id.encode())
        elif wanted.state is not None:
            query = query.where(jobs.c.state == STATE_NUMBERS[wanted.state])
        if bound is not None:
            query = query.where(jobs.c.id > bound if is_upwards else jobs.c.id < bound)
        query = query.order_by(jobs.c.id if is_upwards else jobs.c.id.desc())
        if not wanted.looks_at_many:
            rows = connection.execute(query.limit(limit))
            return [row.id for row in rows], None
        looked_at = query.limit(LOOKED_AT_MAX).subquery()
        end, count = connection.execute(
            sa.select(
                sa.func.max(looked_at.c.id) if is_upwards else sa.func.min(looked_at.c.id),
                sa.func.count(),
            )
        ).one()
        matching = sa.select(looked_at.c.id)
        if wanted.user_id is not None and wanted.state is not None:
            matching = matching.where(looked_at.c.state == STATE_NUMBERS[wanted.state])
        if wanted.kind is not None:
            matching = matching.where(looked_at.c.kind == wanted.kind.encode())
        rows = connection.execute(
            matching.order_by(looked_at.c.id if is_upwards else looked_at.c.id.desc()).limit(limit)
        )
        return [row.id for row in rows], end if count == LOOKED_AT_MAX else None

    def _jobs(self, connection: Connection, ids: Sequence[int]) -> list[Job]:
        if not ids:
            return []
        rows = connection.execute(
            sa.select(jobs.c.job).where(
                jobs.c.generation == self._generation, jobs.c.id.in_([JobId(one) for one in ids])
            )
        )
        return sorted((decode_job(row.job) for row in rows), key=lambda job: -job.id)
