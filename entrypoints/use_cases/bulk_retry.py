"""Retries many failed or cancelled jobs, each by one command. A call examines a bounded number of
jobs, and its result has a cursor for the next call.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.jobs.job import Job, State
from domain.language.errors import RateLimited, Refusal, fresh_copy
from domain.language.identifiers import JobId, Kind, UserId
from domain.language.ranges import JOB_ID, Count
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.retries import retry_all
from projections.queries.job_search import JobFilter, JobSearch
from projections.storage import registry

ERRORS_READ_MAX: Final = 2_000  # per call
_JOBS_PER_PAGE: Final = 200


class RetryFilter(Struct, frozen=True, kw_only=True):
    """The jobs to retry. All conditions must hold; None: no condition."""

    user_id: UserId | None
    kind: Kind | None
    error_contains: str | None  # part of a text in the latest error
    state: State
    jobs_max: int


class RetriedJobs(Struct, frozen=True, omit_defaults=True):
    """The jobs that a call has retried."""

    retried: Annotated[Count, Meta(description="How many jobs were retried.")]
    jobs: Annotated[
        Sequence[Annotated[JobId, JOB_ID]], Meta(description="Their ids, newest first.")
    ]
    next: Annotated[
        str | None, Meta(description="The cursor to continue with. null: no more jobs match.")
    ]
    retry_after_seconds: Annotated[
        Count | None,
        Meta(description="How long to wait because a limit is used up. null: continue at once."),
    ] = None


class _Matches(Struct, frozen=True):
    jobs: Sequence[JobId]
    next: int | None  # an id; the next call examines jobs below it


async def retry_jobs(fairlog: Fairlog, wanted: RetryFilter, below: int | None) -> RetriedJobs:
    """Retry the jobs that match and have an id smaller than `below`, if given.

    Jobs that were retried meanwhile are left out; those whose user's window is used up come again
    with the next cursor. Raises `LogUnavailable`; jobs that were retried by then no longer match.
    """
    found = await fairlog.read_long(lambda connection: _find(connection, wanted, below))
    outcomes = await retry_all(fairlog, found.jobs)
    retried: list[JobId] = []
    later: list[JobId] = []
    seconds: int | None = None
    for job_id, outcome in zip(found.jobs, outcomes, strict=True):
        if isinstance(outcome, Job):
            retried.append(job_id)
        elif isinstance(outcome, RateLimited):
            later.append(job_id)
            left = outcome.resets_at - outcome.decided_at
            seconds = max(1, math.ceil(left.total_seconds()))
        elif not isinstance(outcome, Refusal):
            raise fresh_copy(outcome)
    next_below = later[0] + 1 if later else found.next
    return RetriedJobs(
        len(retried), retried, None if next_below is None else str(next_below), seconds
    )


def _find(connection: Connection, wanted: RetryFilter, below: int | None) -> _Matches:
    search = JobSearch(registry.current("jobs"))
    conditions = JobFilter(user_id=wanted.user_id, state=wanted.state, kind=wanted.kind)
    matching: list[JobId] = []
    read = 0
    while True:
        page = search.older(connection, conditions, below, _JOBS_PER_PAGE)
        matching += _with_text(connection, page.jobs, wanted.error_contains)
        if len(matching) > wanted.jobs_max or (
            len(matching) == wanted.jobs_max and (page.has_older or page.jobs[-1].id < matching[-1])
        ):
            matching = matching[: wanted.jobs_max]
            return _Matches(matching, matching[-1])
        if not page.has_older:
            return _Matches(matching, None)
        read += len(page.jobs)
        below = page.searched_down_to or page.jobs[-1].id
        if page.searched_down_to is not None or read >= ERRORS_READ_MAX:
            return _Matches(matching, below)


def _with_text(connection: Connection, jobs: Sequence[Job], text: str | None) -> list[JobId]:
    if text is None:
        return [job.id for job in jobs]
    positions = [job.error_position for job in jobs if job.error_position is not None]
    found = audit_log.bodies_with(connection, positions, text)
    return [job.id for job in jobs if job.error_position in found]
