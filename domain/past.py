"""A job as it stood: a fold of its own events, in the order of the log."""

from collections.abc import Iterable
from typing import Final

from domain.events import (
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
    Recorded,
)
from domain.identifiers import JobId
from domain.life_cycle import Job, State, evolve, submitted

# Of a job's own events, those that change it; what a worker's heartbeat says is no job's own.
CHANGES: Final[tuple[type[Event], ...]] = (
    JobSubmitted, JobReleased, JobStarted, JobCompleted, JobFailed, JobRequeued, JobCancelled,
    BodiesErased,
)  # fmt: skip


def jobs_of(history: Iterable[Recorded]) -> dict[JobId, Job]:
    """Fold the events of some jobs. Whether its key still stands for a job, its own events do not
    say; here it always does.
    """
    jobs: dict[JobId, Job] = {}
    for recorded in history:
        if isinstance(recorded.event, JobSubmitted):
            jobs[JobId(recorded.position)] = submitted(recorded, recorded.event)
        elif recorded.job_id in jobs:
            jobs[recorded.job_id] = evolve(jobs[recorded.job_id], recorded)
    return jobs


def extended(job: Job, heartbeats: Iterable[Recorded]) -> Job:
    """The same, with the latest heartbeat that names it; they come newest first."""
    if job.state is State.RUNNING:
        for recorded in heartbeats:
            event = recorded.event
            if isinstance(event, LeasesExtended) and (job.id, job.attempt) in event.jobs:
                return evolve(job, recorded)
    return job
