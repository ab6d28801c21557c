"""Jobs as they are today, also those whose rows have gone because their events were archived."""

from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Connection

from domain.jobs.history import jobs_of
from domain.jobs.job import Job
from domain.language.identifiers import JobId
from entrypoints.service.fairlog import Fairlog


def jobs_today(
    fairlog: Fairlog, connection: Connection, job_ids: Sequence[JobId]
) -> Mapping[JobId, Job]:
    """Return those of the jobs that exist, from their rows or else from their events."""
    found = dict(fairlog.jobs.find(connection, list(job_ids)))
    missing = [job_id for job_id in dict.fromkeys(job_ids) if job_id not in found]
    if missing:
        end = fairlog.log.position(connection)
        found |= jobs_of(fairlog.past.changes_of(connection, missing, end))
    return found
