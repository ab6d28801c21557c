"""Search for jobs by several conditions, in time that does not grow with the number of jobs.

An index serves one condition. The others are checked on at most `ROWS_SEARCHED_MAX` rows: a page
may end before it is full, and then says where to continue.
"""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.access.keys import ApiKey
from domain.jobs.job import Job, State
from domain.language.idempotency import key_hash
from domain.language.identifiers import JobId, Kind, UserId
from projections.inline.job_documents import decode_job
from projections.inline.jobs import STATE_NUMBERS, jobs, prefixes
from projections.queries.visible_jobs import conditions_of

ROWS_SEARCHED_MAX: Final = 5_000


class JobFilter(Struct, frozen=True, kw_only=True):
    """Conditions that all have to be met; None means any."""

    user_id: UserId | None = None
    state: State | None = None
    kind: Kind | None = None
    first_id: int | None = None  # the lowest id, inclusive
    seen_by: ApiKey | None = None  # the key that sees only its own

    @property
    def filters_rows(self) -> bool:
        """True if a condition has to be checked row by row, since the index serves another one."""
        return (
            self.kind is not None
            or self.seen_by is not None
            or (self.user_id is not None and self.state is not None)
        )


class JobSearchPage(Struct, frozen=True):
    """A page of jobs, newest first."""

    jobs: Sequence[Job]
    has_newer: bool  # True if there may be some
    has_older: bool  # likewise
    searched_down_to: int | None = None  # id of the last row searched, if the page is not full


class JobSearch:
    """Searches one generation of the jobs: the current one, or an expression for it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def older(
        self, connection: Connection, wanted: JobFilter, below: int | None, limit: int
    ) -> JobSearchPage:
        """Return up to `limit` jobs with ids below `below`; None: the newest ones."""
        found, end = self._search(connection, wanted, below, limit + 1, is_upwards=False)
        return JobSearchPage(
            self._jobs(connection, found[:limit]),
            has_newer=below is not None,
            has_older=len(found) > limit or end is not None,
            searched_down_to=end if len(found) <= limit else None,
        )

    def holders(self, connection: Connection, user_id: UserId, key: str) -> Sequence[Job]:
        """Return the job that an idempotency key of a user identifies, if any: at most one whose
        key was sent, and one whose key is a digest. Found by an index.
        """
        hashes = [key_hash(user_id, key, is_explicit=explicit) for explicit in (True, False)]
        rows = connection.execute(
            sa.select(jobs.c.job).where(
                jobs.c.generation == self._generation, jobs.c.key_hash.in_(prefixes(hashes))
            )
        )
        found = [decode_job(document) for (document,) in rows]
        return [job for job in found if job.key_hash in hashes]

    def newer(
        self, connection: Connection, wanted: JobFilter, above: int, limit: int
    ) -> JobSearchPage:
        """Return up to `limit` jobs with ids above `above`, those next to it."""
        found, end = self._search(connection, wanted, above, limit + 1, is_upwards=True)
        return JobSearchPage(
            self._jobs(connection, found[:limit]),
            has_newer=len(found) > limit or end is not None,
            has_older=True,
        )

    def _search(
        self,
        connection: Connection,
        wanted: JobFilter,
        bound: int | None,
        limit: int,
        *,
        is_upwards: bool,
    ) -> tuple[list[int], int | None]:
        """Return ids in the order of the search, and the last id searched if it stopped early."""
        query = sa.select(jobs.c.id, jobs.c.state, jobs.c.kind).where(
            jobs.c.generation == self._generation
        )
        if wanted.user_id is not None:
            query = query.where(jobs.c.user_id == wanted.user_id.encode())
        elif wanted.state is not None:
            query = query.where(jobs.c.state == STATE_NUMBERS[wanted.state])
        if wanted.first_id is not None:
            query = query.where(jobs.c.id >= wanted.first_id)
        if wanted.seen_by is not None:
            query = query.where(*conditions_of(wanted.seen_by))
        if bound is not None:
            query = query.where(jobs.c.id > bound if is_upwards else jobs.c.id < bound)
        query = query.order_by(jobs.c.id if is_upwards else jobs.c.id.desc())
        if not wanted.filters_rows:
            rows = connection.execute(query.limit(limit))
            return [row.id for row in rows], None
        searched = query.limit(ROWS_SEARCHED_MAX).subquery()
        end, count = connection.execute(
            sa.select(
                sa.func.max(searched.c.id) if is_upwards else sa.func.min(searched.c.id),
                sa.func.count(),
            )
        ).one()
        matching = sa.select(searched.c.id)
        if wanted.user_id is not None and wanted.state is not None:
            matching = matching.where(searched.c.state == STATE_NUMBERS[wanted.state])
        if wanted.kind is not None:
            matching = matching.where(searched.c.kind == wanted.kind.encode())
        rows = connection.execute(
            matching.order_by(searched.c.id if is_upwards else searched.c.id.desc()).limit(limit)
        )
        return [row.id for row in rows], end if count == ROWS_SEARCHED_MAX else None

    def _jobs(self, connection: Connection, ids: Sequence[int]) -> list[Job]:
        if not ids:
            return []
        rows = connection.execute(
            sa.select(jobs.c.job).where(
                jobs.c.generation == self._generation, jobs.c.id.in_([JobId(one) for one in ids])
            )
        )
        return sorted((decode_job(row.job) for row in rows), key=lambda job: -job.id)
