"""Takes back the jobs that a worker or an API key holds: they are queued again at once."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from sqlalchemy.engine import Connection

from domain.jobs.job import Job, State
from domain.language.commands import Caller, ReturnJob
from domain.language.identifiers import JobId, KeyName, WorkerId
from entrypoints.service.fairlog import Fairlog

JOBS_PER_PAGE: Final = 1_000  # running jobs examined by one query


async def take_back(
    fairlog: Fairlog, worker: WorkerId | None, key: KeyName | None, by: Caller | None
) -> list[JobId]:
    """Return the running jobs that the worker or the key holds, and their ids, newest first.

    Both conditions must hold; None: no condition. A job that ends meanwhile is left out.
    """
    held: list[Job] = []
    below: JobId | None = None
    while page := await fairlog.read_long(
        fairlog.with_saved_rows(partial(_running, fairlog, below))
    ):
        held += [
            job
            for job in page
            if worker in {None, job.worker} and key in {None, job.holder} and job.server is None
        ]
        below = page[-1].id
    outcomes = await fairlog.advance_all(
        [ReturnJob(job_id=job.id, attempt=job.attempt, by=by) for job in held]
    )
    return [outcome.id for outcome in outcomes if isinstance(outcome, Job)]


def _running(fairlog: Fairlog, below: JobId | None, connection: Connection) -> Sequence[Job]:
    return fairlog.jobs.newest(connection, None, State.RUNNING, below, JOBS_PER_PAGE)
