"""The life cycle of one job: which events may come next. `job_fold` folds them.

    scheduled ──released──▶ queued ──started──▶ running ──completed──▶ done
        ▲                     ▲                    │
        └──── failed, a retry is due later ◀───────┤
                              └──── requeued ◀─────┤
                                                   └──failed──▶ failed

A job that has not ended can be cancelled; a failed or cancelled one can be queued again. A job that
waits for others is scheduled (`domain.jobs.parents`).
"""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal, assert_never

from msgspec.structs import replace

from domain.jobs import parents
from domain.jobs.failure import UNREPORTED_TYPES, type_of
from domain.jobs.job import ENDED, Job, State, is_future, outcome_of
from domain.language.bodies import Body
from domain.language.commands import (
    CancelJob,
    CompleteJob,
    EraseBodies,
    FailJob,
    JobCommand,
    Progress,
    RetryJob,
    ReturnJob,
)
from domain.language.errors import (
    BodiesAreNeeded,
    HeldByAnother,
    JobHasEnded,
    JobHasMovedOn,
    JobHasNotEnded,
    JobWasErased,
    LeaseHasEnded,
    NotTheCurrentAttempt,
    Refusal,
    ReturnedTooOften,
    TimeWasUp,
)
from domain.language.events import (
    AttemptBegun,
    AttemptEnded,
    BodiesErased,
    CancelReason,
    EndReason,
    Event,
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobRequeued,
    ProgressReported,
    RequeueReason,
    WorkerMissed,
)
from domain.language.limits import delay_range
from domain.language.moments import later

PROGRESS_SECONDS: Final = 2.0  # between two recorded reports of an attempt
LOSSES_FREE_MAX: Final = 3  # consecutive, of attempts that are not known to have begun
RETURNS_MAX: Final = 100  # of one job, until it is retried; each raises the attempt number


def decide(job: Job, command: JobCommand, now: datetime) -> Sequence[Event]:
    """Return the events that follow; none if the command is a repeat. Raises a `Refusal`."""
    match command:
        case CompleteJob():
            return _complete(job, command, now)
        case FailJob():
            return _fail(job, command, now)
        case ReturnJob():
            return _give_back(job, command, now)
        case CancelJob():
            return _cancel(job)
        case RetryJob():
            return _retry(job, now)
        case EraseBodies():
            return _erase(job, command)
        case _:
            assert_never(command)


def _complete(job: Job, command: CompleteJob, now: datetime) -> Sequence[Event]:
    digest = None if command.result is None else command.result.sha256
    if _is_repeated(job, command.attempt, outcome_of(State.DONE, digest)):
        return []
    _require_current(job, command.attempt, now)
    return [
        JobCompleted(
            user_id=job.user_id,
            kind=job.kind,
            resources=job.resources,
            attempt=command.attempt,
            result_sha256=digest,
            result_bytes=0 if command.result is None else command.result.size,
        )
    ]


def _fail(job: Job, command: FailJob, now: datetime) -> Sequence[Event]:
    if _is_repeated(job, command.attempt, outcome_of(State.FAILED, command.error.sha256)):
        return []
    _require_current(job, command.attempt, now)
    may_retry = command.may_retry and _may_fail_again(job, command.error)
    asked = command.retry_in_seconds
    delay = retry_delay(job) if asked is None else asked
    return [
        JobFailed(
            user_id=job.user_id,
            kind=job.kind,
            resources=job.resources,
            attempt=job.attempt,
            reason=FailureReason.ERROR,
            error_sha256=command.error.sha256,
            error_bytes=command.error.size,
            retry_at=later(now, delay) if may_retry else None,
            retry_in_seconds=asked if may_retry else None,
        )
    ]


def _give_back(job: Job, command: ReturnJob, now: datetime) -> Sequence[Event]:
    _require_current(job, command.attempt, now)
    if command.worker not in {None, job.worker}:
        raise HeldByAnother(job.id)
    if job.returns >= RETURNS_MAX:
        raise ReturnedTooOften(job.id, job.returns)
    begun = command.begun
    if begun is None:  # an attempt begun by its claim itself may not have begun really
        begun = job.begun_at is not None and job.begun_at != job.started_at
    given_back = _requeued(job, RequeueReason.GIVEN_BACK, failures=job.failures)
    return [replace(given_back, begun=begun, suspect=job.is_suspect or command.suspect)]


def _cancel(job: Job) -> Sequence[Event]:
    if job.state is State.CANCELLED:
        return []
    if job.state in ENDED:
        raise JobHasEnded(job.id, job.state)
    is_running = job.state is State.RUNNING
    return [
        JobCancelled(
            user_id=job.user_id,
            kind=job.kind,
            resources=job.resources,
            was=_was(job.state),
            attempt=job.attempt if is_running else None,
            worker=job.worker if is_running else None,
        )
    ]


def _retry(job: Job, now: datetime) -> Sequence[Event]:
    if job.state not in {State.FAILED, State.CANCELLED}:
        raise JobHasNotEnded(job.id, job.state)
    if job.erased_at is not None:
        raise JobWasErased(job.id)
    requeued = _requeued(job, RequeueReason.RETRIED, failures=0)
    is_over = job.expires_at is not None and job.expires_at <= now
    return [
        replace(
            requeued,
            was_cancelled=job.state is State.CANCELLED,
            suspect=job.is_suspect,
            expires_at=None if is_over else job.expires_at,
            waits=bool(job.waits_for),
        )
    ]


def _erase(job: Job, command: EraseBodies) -> Sequence[Event]:
    if job.erased_at is not None:
        return []
    if job.state not in ENDED:
        raise BodiesAreNeeded(job.id, job.state)
    if job.attempt != command.attempt or not job.body_positions.issubset(command.positions):
        raise JobHasMovedOn(job.id)
    return [BodiesErased(user_id=job.user_id, kind=job.kind, positions=command.positions)]


def enforce_deadlines(
    job: Job, now: datetime, *, died_with_others: bool = False
) -> Sequence[Event]:
    """Return the events of all deadlines of the job that are due.

    `died_with_others` is True if its worker held other jobs. It matters if the lease has expired.
    """
    if job.due_at is None or now < job.due_at:
        return []
    return [
        *(
            _ended(job, one.attempt, EndReason.LEASE_LOST)
            for one in job.ending
            if one.lease_expires_at <= now
        ),
        *_next_deadline(job, now, died_with_others=died_with_others),
    ]


def _next_deadline(job: Job, now: datetime, *, died_with_others: bool) -> Sequence[Event]:
    match job.state:
        case State.RUNNING if job.times_out_at is not None and now >= job.times_out_at:
            return [_timed_out(job, now)]
        case State.RUNNING if not is_future(job.lease_expires_at, now):
            return [
                expire_lease(
                    job,
                    RequeueReason.LEASE_LOST,
                    FailureReason.LEASE_LOST,
                    died_with_others=died_with_others,
                )
            ]
        case State.SCHEDULED | State.QUEUED if job.expires is not None and now >= job.expires:
            return [
                JobCancelled(
                    user_id=job.user_id,
                    kind=job.kind,
                    resources=job.resources,
                    was=_was(job.state),
                    reason=CancelReason.EXPIRED,
                )
            ]
        case State.SCHEDULED if not (job.waits_for or is_future(job.run_at, now)):
            return [parents.released(job)]
        case _:
            return []


def expire_lease(
    job: Job, requeue: RequeueReason, failure: FailureReason, *, died_with_others: bool
) -> Event:
    """Return the end of a running attempt whose worker is lost.

    It counts as a failure if it may have killed the worker; else a job that kills its workers would
    run for ever. A job whose retry policy names the loss never runs again.
    """
    counts = loss_counts(job, died_with_others=died_with_others)
    error = UNREPORTED_TYPES[failure]
    if _is_never_retried(job, error) or (counts and not _may_fail_again(job, error)):
        return JobFailed(
            user_id=job.user_id,
            kind=job.kind,
            resources=job.resources,
            attempt=job.attempt,
            reason=failure,
        )
    requeued = _requeued(job, requeue, failures=job.failures + counts)
    return replace(requeued, suspect=_is_suspect_after(job))


def loss_counts(job: Job, *, died_with_others: bool) -> bool:
    """Return True if the loss of a worker counts as a failure of this job.

    An attempt that is not known to have begun counts after LOSSES_FREE_MAX such losses. One that
    has begun counts, unless its worker held other jobs: then it is forgiven once, and the next
    attempt runs alone, so that a further loss has one possible cause.
    """
    if job.begun_at is None:
        return job.losses >= LOSSES_FREE_MAX
    return job.is_suspect or not died_with_others


def _is_suspect_after(job: Job) -> bool:
    """Return True if it has begun, or was lost before: it may kill its worker before it reports."""
    return job.is_suspect or job.begun_at is not None or job.losses > 0


def missed(job: Job) -> WorkerMissed:
    """Return the event for a running job of which another lease of the same worker has ended."""
    return WorkerMissed(user_id=job.user_id, kind=job.kind, attempt=job.attempt)


def begun(job: Job) -> AttemptBegun:
    return AttemptBegun(user_id=job.user_id, kind=job.kind, attempt=job.attempt)


def progressed(job: Job, progress: Progress, now: datetime) -> ProgressReported | None:
    """Return the event for a report of progress; None within PROGRESS_SECONDS after another one of
    the attempt, and for a report that says nothing new.
    """
    if job.progress_at is not None:
        if (now - job.progress_at).total_seconds() < PROGRESS_SECONDS:
            return None
        if progress.fraction == job.progress and progress.message is None:
            return None
    return ProgressReported(
        user_id=job.user_id,
        kind=job.kind,
        attempt=job.attempt,
        fraction=progress.fraction,
        message_sha256=None if progress.message is None else progress.message.sha256,
        message_bytes=0 if progress.message is None else progress.message.size,
    )


def events_despite_refusal(
    refusal: Refusal, job: Job, command: JobCommand, now: datetime
) -> Sequence[Event]:
    """Return the events of a refused outcome: it still shows that its attempt has ended.

    A time-out is recorded by the late outcome or by `EnforceDeadlines`, whichever comes first.
    """
    match command:
        case CompleteJob() | FailJob() | ReturnJob() if isinstance(refusal, TimeWasUp):
            error = command.error if isinstance(command, FailJob) else None
            return [_timed_out(job, now, error, has_ended=True)]
        case CompleteJob(attempt=attempt) | FailJob(attempt=attempt) | ReturnJob(attempt=attempt):
            place = job.ending_attempt(attempt)
            sender = command.worker if isinstance(command, ReturnJob) else None
            if place is not None and sender in {None, place.worker}:
                return [_ended(job, attempt, EndReason.REPORTED)]
        case _:
            pass
    return []


def retry_delay(job: Job) -> float:
    """Return the seconds from a failure of the running attempt to the next attempt.

    With the default policy about 1, 2, 4, 8 s. The jitter is a hash of job and attempt, so that the
    same decision made again is equal.
    """
    least, most = delay_range(job.retry, job.errors)
    digest = sha256(f"{job.id}:{job.attempt}".encode()).digest()
    return least + (most - least) * (int.from_bytes(digest[:4], "big") / 2**32)


def _timed_out(
    job: Job, now: datetime, error: Body | None = None, *, has_ended: bool = False
) -> Event:
    reason = FailureReason.TIMED_OUT
    may_retry = _may_fail_again(job, UNREPORTED_TYPES[reason])
    return JobFailed(
        user_id=job.user_id,
        kind=job.kind,
        resources=job.resources,
        attempt=job.attempt,
        reason=reason,
        error_sha256=None if error is None else error.sha256,
        error_bytes=0 if error is None else error.size,
        retry_at=later(now, retry_delay(job)) if may_retry else None,
        holds_place=not has_ended and is_future(job.lease_expires_at, now),
    )


def _may_fail_again(job: Job, error: Body | str) -> bool:
    """Return True if an attempt is left after a failure with this error, or this type of error."""
    return job.failures + 1 < job.attempts_granted and not _is_never_retried(job, error)


def _is_never_retried(job: Job, error: Body | str) -> bool:
    if job.retry is None or not job.retry.never:
        return False
    return (error if isinstance(error, str) else type_of(error)) in job.retry.never


def _requeued(job: Job, reason: RequeueReason, *, failures: int) -> JobRequeued:
    return JobRequeued(
        user_id=job.user_id,
        kind=job.kind,
        resources=job.resources,
        priority=job.priority,
        attempt=job.attempt,
        reason=reason,
        attempts_max=job.attempt + job.attempts_granted - failures,
    )


def _ended(job: Job, attempt: int, reason: EndReason) -> AttemptEnded:
    return AttemptEnded(
        user_id=job.user_id, kind=job.kind, resources=job.resources, attempt=attempt, reason=reason
    )


def _is_repeated(job: Job, attempt: int, outcome: bytes) -> bool:
    return job.attempt == attempt and (job.outcome_attempt, job.outcome) == (attempt, outcome)


def _require_current(job: Job, attempt: int, now: datetime) -> None:
    """Raise a `Refusal` unless the attempt runs, and neither lease nor time-out is over."""
    if job.state is not State.RUNNING or attempt != job.attempt:
        raise NotTheCurrentAttempt(job.id, attempt, job.attempt, job.state)
    if job.times_out_at is not None and not is_future(job.times_out_at, now):
        raise TimeWasUp(job.id, attempt, job.times_out_at)
    if job.lease_expires_at is not None and not is_future(job.lease_expires_at, now):
        raise LeaseHasEnded(job.id, attempt, job.lease_expires_at)


def _was(state: State) -> Literal["queued", "scheduled", "running"]:
    match state:
        case State.QUEUED:
            return "queued"
        case State.SCHEDULED:
            return "scheduled"
        case _:
            return "running"
