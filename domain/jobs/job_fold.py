"""The fold of a job: its state after each event."""

from datetime import datetime
from typing import Final

from msgspec.structs import replace

from domain.jobs.job import Ending, Job, State, outcome_of
from domain.language.digests import packed
from domain.language.events import (
    AttemptBegun,
    AttemptEnded,
    BodiesErased,
    FailureReason,
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
    RequeueReason,
    WorkerMissed,
)
from domain.language.identifiers import JobId


def is_due(event: JobSubmitted, recorded_at: datetime) -> bool:
    """Return True if a submitted job is queued at once."""
    if event.after:  # a JobReleased follows, at the earliest in the same batch
        return False
    return event.run_at is None or event.run_at <= recorded_at


def submitted(recorded: Recorded, event: JobSubmitted) -> Job:
    return Job(
        id=JobId(recorded.position),
        user_id=event.user_id,
        kind=event.kind,
        state=State.QUEUED if is_due(event, recorded.recorded_at) else State.SCHEDULED,
        attempts_granted=event.max_attempts,
        priority=event.priority,
        resources=event.resources,
        payload_digest=packed(event.payload_sha256),
        payload_bytes=event.payload_bytes,
        key=(
            event.idempotency_key.encode()
            if event.key_is_explicit
            else packed(event.idempotency_key)
        ),
        key_is_explicit=event.key_is_explicit,
        key_expires_at=event.key_expires_at,
        run_at=event.run_at,
        expires_at=event.expires_at,
        timeout_seconds=event.timeout_seconds,
        retry=event.retry,
        after=event.after,
        after_failure=event.after_failure,
        waits_for=event.waits_for if event.after else (),
        callback=event.callback,
        submitted_at=recorded.recorded_at,
        updated_at=recorded.recorded_at,
    )


def evolve(job: Job, recorded: Recorded) -> Job:  # noqa: C901, PLR0912 (a case for each event)
    """Fold one event in. Never raises: history is never refused."""
    at = recorded.recorded_at
    match recorded.event:
        case JobStarted() as event:
            return replace(
                job,
                state=State.RUNNING,
                attempt=event.attempt,
                worker=event.worker,
                server=event.server,
                holder=event.by,
                claim_id=event.claim_id,
                lease_expires_at=event.lease_expires_at,
                missed_at=None,
                starts=job.starts + event.begun,
                begun_at=at if event.begun else None,
                progress=None,
                progress_position=None,
                progress_at=None,
                started_at=at,
                started_position=recorded.position,
                finished_at=None,
                updated_at=at,
            )
        case AttemptBegun():
            return replace(
                job,
                starts=job.starts + (job.begun_at is None),
                begun_at=job.begun_at or at,
                updated_at=at,
            )
        case ProgressReported() as event:
            return replace(
                job,
                progress=event.fraction,
                progress_position=None if event.message_sha256 is None else recorded.position,
                progress_at=at,
                updated_at=at,
            )
        case JobCompleted() as event:
            return replace(
                job,
                state=State.DONE,
                lease_expires_at=None,
                finished_at=at,
                updated_at=at,
                starts=_starts_after_outcome(job),
                losses=0,
                is_suspect=False,
                missed_at=None,
                result_position=None if event.result_sha256 is None else recorded.position,
                outcome_attempt=event.attempt,
                outcome=outcome_of(State.DONE, event.result_sha256),
            )
        case LeasesExtended() as event:
            for job_id, attempt in event.jobs:
                if job_id == job.id:
                    job = extended(job, attempt, event, recorded)
            return job
        case JobFailed() as event:
            return _after_failure(job, recorded, event)
        case JobRequeued() as event:
            return _after_requeue(job, event, at)
        case JobReleased():
            return replace(job, state=State.QUEUED, updated_at=at)
        case ParentEnded() as event:
            waits_for = tuple(one for one in job.waits_for if one != event.parent)
            return replace(job, waits_for=waits_for, updated_at=at)
        case JobCancelled() as event:
            return replace(
                _with_ending_attempt(job) if event.attempt is not None else job,
                state=State.CANCELLED,
                lease_expires_at=None,
                missed_at=None,
                finished_at=at,
                updated_at=at,
                failed_parent=event.parent,
            )
        case AttemptEnded() as event:
            left = tuple(one for one in job.ending if one.attempt != event.attempt)
            return replace(job, ending=left, updated_at=at)
        case WorkerMissed():
            return replace(job, missed_at=recorded.position, updated_at=at)
        case BodiesErased():
            return replace(job, erased_at=at, updated_at=at)
        case _:
            return job


def extended(job: Job, attempt: int, event: LeasesExtended, recorded: Recorded) -> Job:
    """Fold in a heartbeat for one attempt: the running one, or one that is ending.

    The latest heartbeat is enough, and may be folded in after later events of the job.
    """
    if attempt == job.attempt and job.state is State.RUNNING:
        is_newer = job.missed_at is None or job.missed_at < recorded.position
        return replace(
            job,
            lease_expires_at=event.lease_expires_at,
            missed_at=None if is_newer else job.missed_at,
            updated_at=max(job.updated_at, recorded.recorded_at),
        )
    if job.ending_attempt(attempt) is None:
        return job
    ending = tuple(
        replace(one, lease_expires_at=event.lease_expires_at) if one.attempt == attempt else one
        for one in job.ending
    )
    return replace(job, ending=ending)


def _after_failure(job: Job, recorded: Recorded, event: JobFailed) -> Job:
    at = recorded.recorded_at
    if not event.ran:
        return replace(
            job,
            state=State.FAILED,
            failure=event.reason,
            failed_attempt=event.attempt,
            failed_parent=event.parent,
            error_position=None,
            finished_at=at,
            updated_at=at,
        )
    was_lost = event.reason in {FailureReason.LEASE_LOST, FailureReason.SERVER_RESTARTED}
    return replace(
        _with_ending_attempt(job) if event.holds_place else job,
        state=State.FAILED if event.retry_at is None else State.SCHEDULED,
        failures=job.failures + 1,
        errors=job.errors + (not was_lost),
        losses=0,
        is_suspect=was_lost,
        missed_at=None,
        starts=job.starts if was_lost else _starts_after_outcome(job),
        run_at=job.run_at if event.retry_at is None else event.retry_at,
        lease_expires_at=None,
        finished_at=at if event.retry_at is None else None,
        updated_at=at,
        failure=event.reason,
        failed_attempt=event.attempt,
        error_position=None if event.error_sha256 is None else recorded.position,
        outcome_attempt=event.attempt,
        # The report of an attempt that timed out is no outcome that can be repeated.
        outcome=outcome_of(
            State.FAILED, event.error_sha256 if event.reason is FailureReason.ERROR else None
        ),
    )


def _after_requeue(job: Job, event: JobRequeued, at: datetime) -> Job:
    if (loss := _LOSSES.get(event.reason)) is not None:
        job = replace(job, failure=loss, failed_attempt=event.attempt, error_position=None)
    failures = job.attempts_granted - (event.attempts_max - event.attempt)
    starts, losses, begun_at = job.starts, 0, job.begun_at
    if loss is not None:
        losses = job.losses + 1 if failures == job.failures else 0
    elif event.reason is RequeueReason.GIVEN_BACK and event.begun:
        starts = _starts_after_outcome(job)
    elif event.reason is RequeueReason.GIVEN_BACK:
        starts, losses, begun_at = starts - (begun_at is not None), job.losses, None
    is_retried = event.reason is RequeueReason.RETRIED
    returns = 0 if is_retried else job.returns
    return replace(
        job,
        state=State.SCHEDULED if event.waits else State.QUEUED,
        failures=failures,
        errors=0 if is_retried else job.errors,
        starts=starts,
        losses=losses,
        returns=returns + (event.reason is RequeueReason.GIVEN_BACK),
        is_suspect=event.suspect,
        begun_at=begun_at,
        expires_at=event.expires_at if is_retried else job.expires_at,
        lease_expires_at=None,
        missed_at=None,
        finished_at=None,
        failed_parent=None,
        updated_at=at,
    )


_LOSSES: Final = {
    RequeueReason.LEASE_LOST: FailureReason.LEASE_LOST,
    RequeueReason.SERVER_RESTARTED: FailureReason.SERVER_RESTARTED,
}


def _starts_after_outcome(job: Job) -> int:
    """Return `starts` after an outcome, which shows that the handler began."""
    return job.starts + (job.begun_at is None)


def _with_ending_attempt(job: Job) -> Job:
    """Return the job with the running attempt among those that are ending."""
    if job.worker is None or job.lease_expires_at is None:  # no legal history
        return job
    ending = Ending(job.attempt, job.worker, job.lease_expires_at, job.holder)
    return replace(job, ending=(*job.ending, ending))
