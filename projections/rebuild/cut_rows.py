"""Reads single jobs from the snapshot at the cut, for questions about their past."""

from collections.abc import Collection, Iterator

from sqlalchemy.engine import Connection

from domain.decisions.ports import Cut, EventLog
from domain.jobs.job import Job
from domain.language.identifiers import JobId
from projections.inline.job_documents import decode_job
from projections.inline.jobs import jobs
from projections.storage.snapshot import BODIES, SnapshotPart, unpacked


def cut_jobs(
    log: EventLog[Connection], connection: Connection, cut: Cut, job_ids: Collection[JobId]
) -> dict[JobId, Job]:
    """Return those of the jobs that the snapshot has, as they were at the cut."""
    wanted = {job_id for job_id in job_ids if job_id <= cut.position}
    found: dict[JobId, Job] = {}
    if not wanted:
        return found
    has_jobs = False
    for part in _parts(log, connection, cut):
        if part.table == jobs.name:
            has_jobs = True
            for row in part.rows:
                if row[0] in wanted:
                    found[JobId(row[0])] = decode_job(row[-1])
        elif has_jobs:
            break  # most of the snapshot comes after the jobs
    return found


def cut_job_ids(log: EventLog[Connection], connection: Connection, cut: Cut) -> set[JobId]:
    """Return the jobs that the snapshot has."""
    return {
        JobId(row[0])
        for part in _parts(log, connection, cut)
        if part.table == jobs.name
        for row in part.rows
    }


def cut_bodies(
    log: EventLog[Connection], connection: Connection, cut: Cut
) -> dict[JobId, list[int]]:
    """Return the positions of the archived bodies that stayed, by job."""
    found: dict[JobId, list[int]] = {}
    for part in _parts(log, connection, cut):
        if part.projection == BODIES:
            for row in part.rows:
                found.setdefault(JobId(row[0]), []).append(row[1])
    return found


def _parts(log: EventLog[Connection], connection: Connection, cut: Cut) -> Iterator[SnapshotPart]:
    return unpacked(log.snapshot_parts(connection, cut.snapshot))
