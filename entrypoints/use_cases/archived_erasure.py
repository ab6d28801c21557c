"""Erases the bodies of jobs that ended in the archived part of the log, found in its segments.

This records the erasures; `segment_erasure` removes the bodies from the files.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.jobs.history import jobs_of
from domain.jobs.job import ENDED, Job
from domain.language.commands import EraseArchivedBodies
from domain.language.errors import BodiesAreNeeded, UnknownJob, fresh_copy
from domain.language.events import Recorded, named_body
from domain.language.identifiers import POSITION_MAX, JobId, UserId
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.erasure import Erased, Progress
from entrypoints.use_cases.whole_history import whole_history

JOBS_PER_PAGE: Final = 500  # of which the history is read at once


class _Found(Struct, frozen=True):
    """A job that ended and is not erased, with the positions of its bodies, rising."""

    job: Job
    positions: Sequence[int]


def erase_archived_job(fairlog: Fairlog, location: str, job_id: JobId, done: Erased) -> None:
    """Erase one job if it is archived and not erased yet, and add it to the counts.

    The writer must run. Raises `UnknownJob` if there is no such job, and `SegmentUnusable`.
    """
    with whole_history(fairlog, location):
        if not fairlog.read_now(partial(_changes, fairlog, job_ids=[job_id])):
            raise UnknownJob(job_id)
        _erase(fairlog, fairlog.read_now(partial(_ended, fairlog, job_ids=[job_id])), done)


def erase_archived(
    fairlog: Fairlog,
    location: str,
    done: Erased,
    *,
    user_id: UserId | None = None,
    ended_before: datetime | None = None,
    progress: Progress = lambda _d, _t: None,
) -> None:
    """Erase all archived jobs, of a user or that ended before a moment, UTC, if it is given, and
    add them to the counts. Jobs that have not ended are left alone and not counted.

    The writer must run. Repeated, it continues. Raises `SegmentUnusable`.
    """
    for page in _pages(fairlog, location, user_id, ended_before, progress):
        _erase(fairlog, page, done)


def count_archived(
    fairlog: Fairlog,
    location: str,
    found: Erased,
    ended_before: datetime,
    *,
    progress: Progress = lambda _d, _t: None,
) -> None:
    """Count what `erase_archived` would erase. Jobs that have a row are counted elsewhere."""
    for page in _pages(fairlog, location, None, ended_before, progress):
        rows = fairlog.read_now(partial(fairlog.jobs.find, job_ids=_ids(page)))
        gone = [one for one in page if one.job.id not in rows]
        found.jobs += len(gone)
        found.bodies += sum(len(one.positions) for one in gone)


def _ids(page: Iterable[_Found]) -> list[JobId]:
    return [one.job.id for one in page]


def _pages(
    fairlog: Fairlog,
    location: str,
    user_id: UserId | None,
    ended_before: datetime | None,
    progress: Progress,
) -> Iterator[Sequence[_Found]]:
    with whole_history(fairlog, location) as segment_log:
        for ids in segment_log.payloads(user_id=user_id):
            for start in range(0, len(ids), JOBS_PER_PAGE):
                some = ids[start : start + JOBS_PER_PAGE]
                found = fairlog.read_now(partial(_ended, fairlog, job_ids=some))
                yield [one for one in found if _is_older(one.job, ended_before)]
                progress(some[-1], segment_log.end)


def _is_older(job: Job, moment: datetime | None) -> bool:
    return moment is None or (job.finished_at is not None and job.finished_at < moment)


def _ended(fairlog: Fairlog, connection: Connection, job_ids: Sequence[JobId]) -> list[_Found]:
    """Return those of the jobs that have ended and are not erased."""
    changes = _changes(fairlog, connection, job_ids)
    positions: dict[JobId, list[int]] = {}
    for one in changes:
        if one.job_id is not None and named_body(one.event) is not None:
            positions.setdefault(one.job_id, []).append(one.position)
    return [
        _Found(job, sorted(positions[job.id]))
        for job in jobs_of(changes).values()
        if job.state in ENDED and job.erased_at is None
    ]


def _changes(fairlog: Fairlog, connection: Connection, job_ids: Sequence[JobId]) -> list[Recorded]:
    return list(fairlog.past.changes_of(connection, job_ids, POSITION_MAX))


def _erase(fairlog: Fairlog, page: Sequence[_Found], done: Erased) -> None:
    outcomes = fairlog.writer.execute_all(
        [
            EraseArchivedBodies(
                job_id=one.job.id,
                user_id=one.job.user_id,
                kind=one.job.kind,
                positions=tuple(one.positions),
            )
            for one in page
        ]
    )
    for one, outcome in zip(page, outcomes, strict=True):
        if not isinstance(outcome, Exception):
            done.jobs += 1
            done.bodies += len(one.positions)
        elif not isinstance(outcome, BodiesAreNeeded):  # it was retried meanwhile
            raise fresh_copy(outcome)
