"""Jobs that come after others: what the end of a parent means for its child.

A job with parents is scheduled, and not in line, until the last of them has ended. It is told the
end of each by a `ParentEnded`, also if it has ended itself meanwhile: then nothing follows.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from domain.jobs.job import Job, State, is_future
from domain.language.events import (
    AfterFailure,
    CancelReason,
    Event,
    FailureReason,
    JobCancelled,
    JobFailed,
    JobReleased,
    ParentEnded,
)


def events_at_submission(job: Job, ended: Iterable[Job], now: datetime) -> Sequence[Event]:
    """Return what follows at once for a new job, of whose parents these had ended."""
    for parent in ended:
        if (fate := _fate(job, parent)) is not None:
            return [fate]
    return _release(job, now) if not job.waits_for else []


def events_at_end(job: Job, parent: Job, now: datetime) -> Sequence[Event]:
    """Return the events of a child when it is told that a parent has ended."""
    told = ParentEnded(
        user_id=job.user_id, kind=job.kind, parent=parent.id, state=_ended_state(parent)
    )
    if job.state is not State.SCHEDULED:
        return [told]
    if (fate := _fate(job, parent)) is not None:
        return [told, fate]
    is_last = not any(one != parent.id for one in job.waits_for)
    return [told, *_release(job, now)] if is_last else [told]


def released(job: Job) -> JobReleased:
    """Return the event by which a scheduled job joins the line."""
    return JobReleased(
        user_id=job.user_id, kind=job.kind, resources=job.resources, priority=job.priority
    )


def _release(job: Job, now: datetime) -> Sequence[Event]:
    """Return the release of a job that waits for no other one, unless time alone decides: it runs
    later, or its expiry has passed.
    """
    is_due = job.run_at is None or job.run_at <= now
    return [released(job)] if is_due and is_future(job.expires, now) else []


def _fate(job: Job, parent: Job) -> Event | None:
    """Return how a waiting job ends because of a parent; None: it does not."""
    if parent.state is State.DONE:
        return None
    match job.after_failure:
        case AfterFailure.FAIL:
            return JobFailed(
                user_id=job.user_id,
                kind=job.kind,
                resources=job.resources,
                attempt=job.attempt,
                reason=FailureReason.PARENT_FAILED,
                parent=parent.id,
            )
        case AfterFailure.CANCEL:
            return JobCancelled(
                user_id=job.user_id,
                kind=job.kind,
                resources=job.resources,
                was="scheduled",
                reason=CancelReason.PARENT_FAILED,
                parent=parent.id,
            )
        case AfterFailure.RUN | None:
            return None


def _ended_state(parent: Job) -> Literal["done", "failed", "cancelled"]:
    match parent.state:
        case State.DONE:
            return "done"
        case State.FAILED:
            return "failed"
        case _:
            return "cancelled"
