"""Legality of jobs that come after others: no child runs before it was told of each end."""

from collections.abc import Mapping

from domain.jobs.job import ENDED, Job, State
from domain.language.events import (
    AfterFailure,
    JobCancelled,
    JobFailed,
    JobSubmitted,
    ParentEnded,
    Recorded,
)
from domain.language.identifiers import JobId


def misordered(jobs: Mapping[JobId, Job], recorded: Recorded) -> str | None:
    """Say what is wrong with how a job comes after others, given the jobs before the event; None if
    nothing is. Jobs that are not given are not checked: those that ended long ago.
    """
    match recorded.event:
        case JobSubmitted(after=after, after_ended=ended) if after:
            for job_id in after:
                job = jobs.get(job_id)
                if job is not None and (job.state in ENDED) != (job_id in ended):
                    return f"it comes after job {job_id}, which was {job.state.value}"
        case ParentEnded(parent=parent, state=state):
            job = jobs.get(parent)
            if job is not None and job.state.value != state:
                return f"its parent {parent} was {job.state.value}, not {state}"
        case JobFailed(parent=int(parent)) | JobCancelled(parent=int(parent)):
            job = jobs.get(parent)
            if job is not None and job.state not in {State.FAILED, State.CANCELLED}:
                return f"it blames its parent {parent}, which was {job.state.value}"
        case _:
            pass
    return None


def check_parents(recorded: Recorded, event: JobSubmitted) -> str | None:
    """Check which jobs a submission comes after, and what follows if one fails."""
    if not event.after:
        has_none = not event.after_ended and event.after_failure is None
        return None if has_none else "it comes after no job, and says what follows from one"
    if event.after_failure is None:
        return "it does not say what follows if a parent fails"
    if list(event.after) != sorted(set(event.after)) or not event.after[0] >= 1:
        return "its parents are not in order"
    if event.after[-1] >= recorded.position:
        return f"it comes after job {event.after[-1]}, which did not exist"
    return None if set(event.after_ended) <= set(event.after) else "it names a parent's end alone"


def check_fate(job: Job, parent: JobId, attempt: int, follows: AfterFailure) -> str | None:
    """Check the end of a job that did not run, because of its parent."""
    if job.state is not State.SCHEDULED:
        return f"job {job.id} was {job.state.value}, not scheduled"
    if parent not in job.after:
        return f"job {job.id} does not come after job {parent}"
    if parent in job.waits_for:
        return f"job {job.id} had not been told the end of job {parent}"
    if job.after_failure is not follows:
        return f"job {job.id} was submitted for something else if a parent fails"
    return None if attempt == job.attempt else f"it ends attempt {attempt}, not {job.attempt}"


def check_parent_end(job: Job, _: Recorded, event: ParentEnded) -> str | None:
    """Check that a job waited for the one whose end it is told."""
    if event.parent not in job.waits_for:
        return f"job {job.id} did not wait for job {event.parent}"
    return None
