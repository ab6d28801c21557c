"""Retries many failed or cancelled jobs, each by one command. A call examines a bounded number of
jobs, and its result has a cursor for the next call.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from domain.jobs.job import Job, State
from domain.language.errors import RateLimited, Refusal, fresh_copy
from domain.language.identifiers import JobId, Kind, UserId
from domain.language.ranges import JOB_ID, Count
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.key_ring import Access
from entrypoints.use_cases.find_jobs import JobConditions, find_jobs
from entrypoints.use_cases.retries import retry_all


class RetryFilter(Struct, frozen=True, kw_only=True):
    """The jobs to retry. All conditions must hold; None: no condition."""

    user_id: UserId | None
    kind: Kind | None
    error_contains: str | None  # part of a text in the latest error
    state: State
    since: datetime | None = None  # UTC, of the submission, inclusive
    until: datetime | None = None  # likewise, exclusive
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


async def retry_jobs(
    fairlog: Fairlog, wanted: RetryFilter, below: int | None, access: Access | None = None
) -> RetriedJobs:
    """Retry the jobs that match and have an id smaller than `below`, if given.

    Jobs that were retried meanwhile are left out; those whose user's window is used up come again
    with the next cursor. Raises `LogUnavailable`; jobs that were retried by then no longer match.
    """
    conditions = JobConditions(
        user_id=wanted.user_id,
        state=wanted.state,
        kind=wanted.kind,
        error_contains=wanted.error_contains,
        since=wanted.since,
        until=wanted.until,
    )
    found = await fairlog.read_long(
        fairlog.with_saved_rows(
            lambda connection: find_jobs(connection, conditions, below, wanted.jobs_max)
        )
    )
    ids = [job.id for job in found.jobs]
    outcomes = await retry_all(fairlog, ids, access)
    retried: list[JobId] = []
    later: list[JobId] = []
    seconds: int | None = None
    for job_id, outcome in zip(ids, outcomes, strict=True):
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
