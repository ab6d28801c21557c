"""The latest starts of jobs, and since when each job was in line, from the log."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter
from domain.audit.fair_shares import Start, UnstartedJob
from domain.jobs.job import Job
from domain.language.events import JobStarted
from domain.language.identifiers import JobId
from domain.log.upcasting import read

STARTS_READ: Final = 500  # reading and examining them takes some 15 ms
_RETURNS_READ: Final = 500  # of jobs to the line, of each type

_Returns = Mapping[JobId, Sequence[int]]  # positions at which a job joined the line again


class RecentStarts(Struct, frozen=True):
    """Consecutive starts in log order, and what tells when a job joined the line."""

    starts: Sequence[Start]
    returns: _Returns

    def waiting(self, job: Job) -> UnstartedJob | None:
        """Return a job that is next in its lane; None: it is not known when it joined the line."""
        is_new = job.attempt == 0 and job.run_at is None
        positions = self.returns.get(job.id)
        if not is_new and positions is None:
            return None
        ready = positions[-1] if positions else job.id
        return UnstartedJob(job.user_id, job.kind, job.id, ready)


def recent_starts(connection: Connection) -> RecentStarts:
    """Read the latest STARTS_READ starts, fewer if more jobs than starts joined the line again."""
    starts = audit_log.find_newest(
        connection, EventFilter(types=("JobStarted",)), None, STARTS_READ
    )[::-1]
    returns: defaultdict[JobId, list[int]] = defaultdict(list)
    known_from = 0
    for type_name in ("JobReleased", "JobRequeued"):
        found = audit_log.find_newest(
            connection, EventFilter(types=(type_name,)), None, _RETURNS_READ
        )
        if len(found) == _RETURNS_READ:
            known_from = max(known_from, found[-1].position)
        for event in found:
            if event.job_id is not None:
                returns[event.job_id].append(event.position)
    for positions in returns.values():
        positions.sort()
    decoded = [
        (event, event.job_id, started)
        for event in starts
        if event.position > known_from
        and event.job_id is not None
        and isinstance(started := read(event.version, event.data), JobStarted)
    ]
    ready = [
        _ready(job_id, event.position, started.attempt, returns)
        for event, job_id, started in decoded
    ]
    times = audit_log.times_at(connection, sorted({one for one in ready if one}))
    return RecentStarts(
        [
            Start(
                event.position,
                event.recorded_at,
                started.user_id,
                started.kind,
                job_id,
                position or known_from,
                times.get(position),
            )
            for (event, job_id, started), position in zip(decoded, ready, strict=True)
        ],
        returns,
    )


def _ready(job_id: JobId, started_at: int, attempt: int, returns: _Returns) -> int:
    """Return the position at which a job that was started at one had joined the line.

    0: before the returns that were read.
    """
    positions = returns.get(job_id, ())
    before = bisect_left(positions, started_at)
    if before:
        return positions[before - 1]
    return job_id if attempt == 1 else 0
