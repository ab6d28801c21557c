"""Erases the bodies of jobs by commands, one page of jobs at a time, so that neither memory nor
transactions grow with a user's history.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.archived import absence
from adapters.log.histories import changes_of
from domain.jobs.job import ENDED, Job
from domain.language.commands import CancelJob, EraseBodies
from domain.language.errors import (
    BodiesAreNeeded,
    JobArchived,
    JobHasEnded,
    JobHasMovedOn,
    fresh_copy,
)
from domain.language.events import named_body
from domain.language.identifiers import POSITION_MAX, JobId, UserId
from entrypoints.service.fairlog import Fairlog
from projections.rebuild.cut_rows import cut_bodies

JOBS_PER_PAGE: Final = 100
BODIES_PER_PAGE: Final = 200  # read; of at most as many jobs
_TRIES_MAX: Final = 3  # for a job that is retried meanwhile

Progress = Callable[[int, int], None]  # jobs or positions examined, and known so far


class Erased(Struct):
    """The counts of an erasure."""

    jobs: int = 0  # whose bodies were erased
    bodies: int = 0
    open: int = 0  # jobs that have not ended and keep their payloads


def erase_user(
    fairlog: Fairlog, user_id: UserId, *, cancel: bool, progress: Progress = lambda _d, _t: None
) -> Erased:
    """Erase all ended jobs of a user; with `cancel`, cancel the others first.

    The writer must run. Raises `LogUnavailable`; repeated, it continues.
    """
    done = Erased()
    examined = 0
    for page in _pages(fairlog, user_id):
        _erase(fairlog, [job.id for job in page], done, cancel=cancel)
        examined += len(page)
        progress(examined, examined)
    fairlog.database.overwrite_deleted()
    return done


def erase_job(fairlog: Fairlog, job_id: JobId, *, cancel: bool) -> Erased:
    """Erase one job, as `erase_user` does; one that is archived and has no row is left alone.

    Raises `UnknownJob`.
    """
    done = Erased()
    if not _jobs(fairlog, [job_id]):
        unknown = fairlog.read_now(partial(absence, job_id=job_id))
        if not isinstance(unknown, JobArchived):
            raise unknown
        return done
    _erase(fairlog, [job_id], done, cancel=cancel)
    fairlog.database.overwrite_deleted()
    return done


def erase_older(
    fairlog: Fairlog, ended_before: datetime, *, progress: Progress = lambda _d, _t: None
) -> Erased:
    """Erase all jobs that ended before a moment, UTC, by the log's clock.

    Jobs that have not ended, or ended later, are left alone and not counted. The writer must run.
    Raises `LogUnavailable`; repeated, it continues: it reads only bodies that are still stored.
    """
    done = Erased()
    for jobs, position, end in _older(fairlog, ended_before):
        if jobs:
            _erase_ended(fairlog, jobs, done)
        progress(position, end)
    fairlog.database.overwrite_deleted()
    return done


def count_older(
    fairlog: Fairlog, ended_before: datetime, *, progress: Progress = lambda _d, _t: None
) -> Erased:
    """Count what `erase_older` would erase."""
    found = Erased()
    for jobs, position, end in _older(fairlog, ended_before):
        bodies = fairlog.read_now(partial(_bodies, fairlog, job_ids=[job.id for job in jobs]))
        found.jobs += len(jobs)
        found.bodies += sum(map(len, bodies.values()))
        progress(position, end)
    return found


def _older(fairlog: Fairlog, ended_before: datetime) -> Iterator[tuple[Sequence[Job], int, int]]:
    """Yield the jobs that ended before a moment and have bodies, by their ids, a page at a time;
    with each page the position searched up to, and the last one to search.

    A job's id is the position of its payload, which is the first body that it has. So the search
    reads the bodies in order, and ends where all were submitted later.
    """
    end = fairlog.read_now(lambda connection: audit_log.first_at(connection, ended_before)) - 1
    after = 0

    def read(connection: Connection) -> tuple[list[Job], list[int]]:
        positions = audit_log.body_positions(connection, after, end, BODIES_PER_PAGE)
        found = fairlog.jobs.find(connection, [JobId(one) for one in positions])
        return list(found.values()), positions

    while after < end:
        jobs, positions = fairlog.read_now(fairlog.with_saved_rows(read))
        after = positions[-1] if len(positions) == BODIES_PER_PAGE else end
        yield [job for job in jobs if _is_older(job, ended_before)], after, end


def _is_older(job: Job, ended_before: datetime) -> bool:
    return (
        job.state in ENDED
        and job.erased_at is None
        and job.finished_at is not None
        and job.finished_at < ended_before
    )


def _pages(fairlog: Fairlog, user_id: UserId) -> Iterator[Sequence[Job]]:
    below: int | None = None

    def read(connection: Connection) -> list[Job]:
        return fairlog.jobs.newest(connection, user_id, None, below, JOBS_PER_PAGE)

    while page := fairlog.read_now(fairlog.with_saved_rows(read)):
        yield page
        below = page[-1].id


def _erase(fairlog: Fairlog, job_ids: Sequence[JobId], done: Erased, *, cancel: bool) -> None:
    left = list(job_ids)
    for _ in range(_TRIES_MAX):
        jobs = _jobs(fairlog, left)
        open_jobs = [job.id for job in jobs if job.state not in ENDED]
        if cancel and open_jobs:
            _cancel(fairlog, open_jobs)
            jobs = _jobs(fairlog, left)
        left = _erase_ended(fairlog, [job for job in jobs if job.state in ENDED], done)
        if not left:
            break
    done.open += sum(job.state not in ENDED for job in _jobs(fairlog, job_ids))


def _jobs(fairlog: Fairlog, job_ids: Sequence[JobId]) -> list[Job]:
    query = fairlog.with_saved_rows(lambda connection: fairlog.jobs.find(connection, list(job_ids)))
    return list(fairlog.read_now(query).values())


def _cancel(fairlog: Fairlog, job_ids: Sequence[JobId]) -> None:
    for outcome in fairlog.writer.execute_all([CancelJob(job_id=job_id) for job_id in job_ids]):
        if isinstance(outcome, Exception) and not isinstance(outcome, JobHasEnded):
            raise fresh_copy(outcome)


def _erase_ended(fairlog: Fairlog, jobs: Sequence[Job], done: Erased) -> list[JobId]:
    """Erase bodies, and return the jobs that were retried meanwhile."""
    waiting = {job.id: job for job in jobs if job.erased_at is None}
    bodies = fairlog.read_now(lambda connection: _bodies(fairlog, connection, list(waiting)))
    outcomes = fairlog.writer.execute_all(
        [
            EraseBodies(job_id=job.id, attempt=job.attempt, positions=tuple(bodies[job.id]))
            for job in waiting.values()
        ]
    )
    moved_on: list[JobId] = []
    for job_id, outcome in zip(waiting, outcomes, strict=True):
        if not isinstance(outcome, Exception):
            done.jobs += 1
            done.bodies += len(bodies[job_id])
        elif isinstance(outcome, JobHasMovedOn):
            moved_on.append(job_id)
        elif not isinstance(outcome, BodiesAreNeeded):
            raise fresh_copy(outcome)
    return moved_on


def _bodies(
    fairlog: Fairlog, connection: Connection, job_ids: Sequence[JobId]
) -> dict[JobId, list[int]]:
    """Find the positions of the bodies of some jobs."""
    found: dict[JobId, list[int]] = {job_id: [] for job_id in job_ids}
    cut = fairlog.log.cut(connection)
    if any(job_id <= cut.position for job_id in job_ids):
        for job_id, positions in cut_bodies(fairlog.log, connection, cut).items():
            if job_id in found:
                found[job_id] += positions
    for recorded in changes_of(connection, job_ids, POSITION_MAX):
        if recorded.job_id is not None and named_body(recorded.event):
            found[recorded.job_id].append(recorded.position)
    return found
