"""Starts many failed or cancelled jobs again. Each is one command; what is looked at in one call is
bounded, and the answer says where to go on.
"""

import math
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.jobs.job import Job, State
from domain.language.errors import RateLimited, Refusal, fresh_copy
from domain.language.identifiers import JobId, Kind, UserId
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.retries import retry_all
from projections.queries.job_search import JobFilter, JobSearch
from projections.storage import registry

ERRORS_READ_MAX: Final = 2_000  # in one call
_PAGE: Final = 200


class RetryFilter(Struct, frozen=True, kw_only=True):
    """Which jobs; every condition that is given must hold."""

    user_id: UserId | None
    kind: Kind | None
    error_contains: str | None  # in a text of the latest error
    state: State
    jobs_max: int


class RetriedJobs(Struct, frozen=True, omit_defaults=True):
    retried: int
    jobs: Sequence[JobId]  # newest first
    next: str | None  # the cursor to go on with; None: there are no more
    retry_after_seconds: int | None = None  # until a used up limit is not; None: go on at once


class _Matches(Struct, frozen=True):
    jobs: Sequence[JobId]
    next: int | None  # go on below this id


async def retry_jobs(fairlog: Fairlog, wish: RetryFilter, below: int | None) -> RetriedJobs:
    """A job that somebody else started meanwhile is left out, and one whose user's window is used
    up comes again with the next cursor. Raises `LogUnavailable` and its like; what was started
    again by then no longer matches.
    """
    found = await fairlog.read_long(lambda connection: _find(connection, wish, below))
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
    following = later[0] + 1 if later else found.next
    return RetriedJobs(
        len(retried), retried, None if following is None else str(following), seconds
    )


def _find(connection: Connection, wish: RetryFilter, below: int | None) -> _Matches:
    search = JobSearch(registry.current("jobs"))
    wanted = JobFilter(user_id=wish.user_id, state=wish.state, kind=wish.kind)
    matching: list[JobId] = []
    read = 0
    while True:
        page = search.older(connection, wanted, below, _PAGE)
        matching += _with_text(connection, page.jobs, wish.error_contains)
        if len(matching) > wish.jobs_max or (
            len(matching) == wish.jobs_max and (page.has_older or page.jobs[-1].id < matching[-1])
        ):
            matching = matching[: wish.jobs_max]
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
