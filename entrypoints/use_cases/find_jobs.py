"""Finds jobs by user, state, kind, time and error, newest first.

A call examines a bounded number of jobs, and its result has a cursor for the next call: a page may
have few jobs, or none, before the end.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.access.keys import ApiKey
from domain.jobs.failure import unreported_error
from domain.jobs.job import Job, State
from domain.language.errors import InvalidInput
from domain.language.identifiers import Kind, UserId
from entrypoints.runtime.page_bytes import PAGE_BYTES_MAX
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.pages import Included, fitting_jobs
from entrypoints.service.views import JobPage
from projections.queries.job_search import JobFilter, JobSearch
from projections.storage import registry

ERRORS_READ_MAX: Final = 2_000  # per call
_JOBS_PER_PAGE: Final = 200


class JobConditions(Struct, frozen=True, kw_only=True):
    """The jobs to find. All conditions must hold; None: no condition."""

    user_id: UserId | None = None
    state: State | None = None
    kind: Kind | None = None
    error_contains: str | None = None  # part of a text in the latest error, case-sensitive
    since: datetime | None = None  # UTC, of the submission, inclusive
    until: datetime | None = None  # likewise, exclusive
    idempotency_key: str | None = None  # the job that it identifies; it needs `user_id`

    @property
    def are_indexed(self) -> bool:
        """True if the jobs are read by one index: of a user, or of a state, or all."""
        others = (self.kind, self.error_contains, self.since, self.until, self.idempotency_key)
        return all(one is None for one in others)

    def allow(self, job: Job) -> bool:
        """Return True if a job meets the conditions, its error and its key aside."""
        return (
            (self.user_id is None or job.user_id == self.user_id)
            and (self.state is None or job.state is self.state)
            and (self.kind is None or job.kind == self.kind)
            and (self.since is None or job.submitted_at >= self.since)
            and (self.until is None or job.submitted_at < self.until)
        )


class FoundJobs(Struct, frozen=True):
    """Jobs that match, newest first."""

    jobs: Sequence[Job]
    next: int | None  # an id; the next call examines jobs below it. None: no more match


async def job_page(
    fairlog: Fairlog,
    wanted: JobConditions,
    below: int | None,
    limit: int,
    included: Included,
    *,
    seen_by: ApiKey | None = None,
) -> JobPage:
    """Return a page of at most `limit` jobs with ids below `below`; None: the newest.

    `seen_by` is the API key that may see only its own; None: all jobs.

    It ends early if its bodies would have more than PAGE_BYTES_MAX bytes together. Raises
    `BodyMissing`.
    """
    if wanted.are_indexed:
        return await fairlog.newest_jobs(
            wanted.user_id, wanted.state, below, limit, included, seen_by=seen_by
        )

    def read(connection: Connection) -> JobPage:
        found = find_jobs(connection, wanted, below, limit, seen_by)
        shown, _ = fitting_jobs(connection, found.jobs, included, PAGE_BYTES_MAX)
        following = found.next if len(shown) == len(found.jobs) else shown[-1].id
        views = fairlog.views(connection, shown, included=included)
        return JobPage(views, None if following is None else str(following))

    return await fairlog.read_long(fairlog.with_saved_rows(read))


def find_jobs(
    connection: Connection,
    wanted: JobConditions,
    below: int | None,
    jobs_max: int,
    seen_by: ApiKey | None = None,
) -> FoundJobs:
    """Find at most `jobs_max` jobs with ids below `below`; None: the newest.

    `seen_by` is the API key that may see only its own; None: all jobs. Raises `InvalidInput` for
    an idempotency key without a user.
    """
    if seen_by is not None and wanted.user_id is None:
        wanted = replace(wanted, user_id=seen_by.only_user)
    search = JobSearch(registry.current("jobs"))
    if wanted.idempotency_key is not None:
        return _with_key(connection, search, wanted, wanted.idempotency_key, below, seen_by)
    first = None if wanted.since is None else audit_log.first_at(connection, wanted.since)
    if wanted.until is not None:
        end = audit_log.first_at(connection, wanted.until)
        below = end if below is None else min(below, end)
    conditions = JobFilter(
        user_id=wanted.user_id, state=wanted.state, kind=wanted.kind, first_id=first
    )
    matching: list[Job] = []
    read = 0
    while True:
        page = search.older(connection, conditions, below, _JOBS_PER_PAGE)
        seen = [
            job for job in page.jobs if seen_by is None or seen_by.is_for(job.user_id, job.kind)
        ]
        matching += _with_text(connection, seen, wanted.error_contains)
        if len(matching) > jobs_max or (
            len(matching) == jobs_max and (page.has_older or page.jobs[-1].id < matching[-1].id)
        ):
            matching = matching[:jobs_max]
            return FoundJobs(matching, matching[-1].id)
        if not page.has_older:
            return FoundJobs(matching, None)
        read += len(page.jobs)
        below = page.searched_down_to or page.jobs[-1].id
        if page.searched_down_to is not None or read >= ERRORS_READ_MAX:
            return FoundJobs(matching, below)


def _with_key(
    connection: Connection,
    search: JobSearch,
    wanted: JobConditions,
    key: str,
    below: int | None,
    seen_by: ApiKey | None,
) -> FoundJobs:
    if wanted.user_id is None:
        raise InvalidInput("idempotency_key needs user_id, since each user has keys of its own.")
    found = [
        job
        for job in search.holders(connection, wanted.user_id, key)
        if wanted.allow(job)
        and (below is None or job.id < below)
        and (seen_by is None or seen_by.is_for(job.user_id, job.kind))
    ]
    found.sort(key=lambda job: job.id, reverse=True)
    return FoundJobs(_with_text(connection, found, wanted.error_contains), None)


def _with_text(connection: Connection, jobs: Sequence[Job], text: str | None) -> Sequence[Job]:
    if text is None:
        return jobs
    positions = [job.error_position for job in jobs if job.error_position is not None]
    found = audit_log.bodies_with(connection, positions, text)
    return [job for job in jobs if job.error_position in found or _was_unreported(job, text)]


def _was_unreported(job: Job, text: str) -> bool:
    error = unreported_error(job)
    return error is not None and (text in error.type or text in error.message)
