"""Retries failed or cancelled jobs. Each retry counts as a submission of its user, and is refused
without a call of the writer if the window of that user is known to be used up.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from domain.decisions.answers import JobUpdated
from domain.jobs.job import Job, State
from domain.language.commands import RetryJob
from domain.language.errors import FairlogError, RateLimited, fresh_copy
from domain.language.events import Scope
from domain.language.identifiers import JobId, UserId
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.key_ring import Access
from entrypoints.service.views import JobView

RETRIES_AT_ONCE: Final = 50
_ENDED_BADLY: Final = {State.FAILED, State.CANCELLED}

_Refused = dict[UserId | None, RateLimited]  # by user; None: of all together


async def retry(fairlog: Fairlog, job_id: JobId, access: Access | None = None) -> JobView:
    """Retry a job, and return it as updated. Raises `RateLimited`, or another error if it cannot be
    retried.
    """
    [outcome] = await retry_all(fairlog, [job_id], access)
    if isinstance(outcome, Exception):
        raise fresh_copy(outcome)
    return await fairlog.view_of(outcome)


async def retry_all(
    fairlog: Fairlog, job_ids: Sequence[JobId], access: Access | None = None
) -> list[Job | FairlogError]:
    """Retry many jobs by the key of a caller, and return one outcome for each, in order.

    Once a user's window turns out to be used up, the rest of their jobs gets the same refusal, and
    nothing is recorded of it.
    """
    query = fairlog.with_saved_rows(lambda connection: fairlog.jobs.find(connection, list(job_ids)))
    found = await fairlog.read(query)
    refused: _Refused = {}
    outcomes: list[Job | FairlogError] = []
    for start in range(0, len(job_ids), RETRIES_AT_ONCE):
        some = job_ids[start : start + RETRIES_AT_ONCE]
        answers = await asyncio.gather(
            *(_retry(fairlog, job_id, found.get(job_id), refused, access) for job_id in some)
        )
        for answer in answers:
            if isinstance(answer, RateLimited):
                user_id = answer.user_id if answer.scope is Scope.USER else None
                refused.setdefault(user_id, answer)
        outcomes += answers
    return outcomes


async def _retry(
    fairlog: Fairlog,
    job_id: JobId,
    job: Job | None,
    refused: Mapping[UserId | None, RateLimited],
    access: Access | None,
) -> Job | FairlogError:
    command = RetryJob(job_id=job_id, by=None if access is None else access.caller)
    try:
        if job is None or job.state not in _ENDED_BADLY or not _is_seen(access, job):
            # The log says why it cannot be.
            updated = await fairlog.writer.execute(command)
        elif known := refused.get(job.user_id) or refused.get(None):
            return known
        else:
            updated = await fairlog.limiter.submit(job.user_id, command)
    except FairlogError as error:
        return error
    assert isinstance(updated, JobUpdated), updated
    return updated.job


def _is_seen(access: Access | None, job: Job) -> bool:
    return access is None or access.key.is_for(job.user_id, job.kind)
