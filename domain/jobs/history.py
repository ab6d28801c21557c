"""The state of a job at an earlier position, folded from its own events in log order."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from domain.jobs.job import Job, State
from domain.jobs.job_fold import evolve, extended, submitted
from domain.language.events import (
    AttemptBegun,
    AttemptEnded,
    BodiesErased,
    Event,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LeasesExtended,
    ParentEnded,
    ProgressReported,
    Recorded,
    WorkerMissed,
)
from domain.language.identifiers import JobId

# The events that change the job they are about. A LeasesExtended is about no single job.
CHANGES: Final[tuple[type[Event], ...]] = (
    JobSubmitted,
    JobReleased,
    JobStarted,
    JobCompleted,
    JobFailed,
    JobRequeued,
    JobCancelled,
    BodiesErased,
    AttemptBegun,
    AttemptEnded,
    WorkerMissed,
    ProgressReported,
    ParentEnded,
)


def jobs_of(
    history: Iterable[Recorded], before: Mapping[JobId, Job] = MappingProxyType({})
) -> dict[JobId, Job]:
    """Fold the events of some jobs; `before` are those that had been submitted before them.

    `holds_key` is always True, since it depends on the events of other jobs.
    """
    jobs = dict(before)
    for recorded in history:
        if isinstance(recorded.event, JobSubmitted):
            jobs[JobId(recorded.position)] = submitted(recorded, recorded.event)
        elif recorded.job_id in jobs:
            jobs[recorded.job_id] = evolve(jobs[recorded.job_id], recorded)
    return jobs


def with_heartbeats(job: Job, heartbeats: Iterable[Recorded]) -> Job:
    """Fold in the latest heartbeat of each leased attempt, given newest first."""
    leased = {one.attempt for one in job.ending}
    if job.state is State.RUNNING:
        leased.add(job.attempt)
    if not leased:
        return job
    for recorded in heartbeats:
        event = recorded.event
        if not isinstance(event, LeasesExtended):
            continue
        for attempt in [one for one in leased if (job.id, one) in event.jobs]:
            job = extended(job, attempt, event, recorded)
            leased.remove(attempt)
        if not leased:
            break
    return job
