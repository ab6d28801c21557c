"""The life of one job: what may happen to it next. `job_fold` says how it looks after that.

    scheduled ──released──▶ queued ──started──▶ running ──completed──▶ done
        ▲                     ▲                    │
        └──── failed, a retry is due later ◀───────┤
                              └──── requeued ◀─────┤
                                                   └──failed──▶ failed

Each state but the ended ones can be cancelled; failed and cancelled jobs can be queued again.
"""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal, assert_never

from msgspec.structs import replace

from domain.jobs.job import ENDED, Job, State, is_future
from domain.language.bodies import Body
from domain.language.commands import (
    CancelJob,
    CompleteJob,
    EraseBodies,
    FailJob,
    JobCommand,
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
    JobReleased,
    JobRequeued,
    RequeueReason,
    WorkerMissed,
)
from domain.language.moments import later
from domain.language.policy import Policy

LOSSES_FREE_MAX: Final = 3  # one after the other, of an attempt that is not known to have begun
RETURNS_MAX: Final = 100  # of one job, until it is retried; each raises the attempt number


def decide(job: Job, command: JobCommand, policy: Policy, now: datetime) -> Sequence[Event]:
    """Say what happens next; empty if it already has. Raises a Refusal."""
    match command:
        case CompleteJob():
            return _complete(job, command, now)
        case FailJob():
            return _fail(job, command, policy, now)
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
    if _is_repeated(job, command.attempt, f"done:{digest}"):
        return []
    _require_current(job, command.attempt, now)
    return [
        JobCompleted(
            user_id=job.user_id,
            kind=job.kind,
            attempt=command.attempt,
            result_sha256=digest,
            result_bytes=0 if command.result is None else command.result.size,
        )
    ]


def _fail(job: Job, command: FailJob, policy: Policy, now: datetime) -> Sequence[Event]:
    if _is_repeated(job, command.attempt, f"failed:{command.error.sha256}"):
        return []
    _require_current(job, command.attempt, now)
    may_retry = command.may_retry and _may_fail_again(job)
    return [
        JobFailed(
            user_id=job.user_id,
            kind=job.kind,
            attempt=job.attempt,
            reason=FailureReason.ERROR,
            error_sha256=command.error.sha256,
            error_bytes=command.error.size,
            retry_at=later(now, retry_delay(job, policy)) if may_retry else None,
        )
    ]


def _give_back(job: Job, command: ReturnJob, now: datetime) -> Sequence[Event]:
    _require_current(job, command.attempt, now)
    if command.worker not in {None, job.worker}:
        raise HeldByAnother(job.id)
    if job.returns >= RETURNS_MAX:
        raise ReturnedTooOften(job.id, job.returns)
    begun = command.begun
    if begun is None:  # that a claim begins its jobs is only assumed
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
        )
    ]


def _erase(job: Job, command: EraseBodies) -> Sequence[Event]:
    if job.erased_at is not None:
        return []
    if job.state not in ENDED:
        raise BodiesAreNeeded(job.id, job.state)
    if job.attempt != command.attempt:
        raise JobHasMovedOn(job.id, command.attempt, job.attempt)
    return [BodiesErased(user_id=job.user_id, kind=job.kind, positions=command.positions)]


def wake(
    job: Job, policy: Policy, now: datetime, *, died_with_others: bool = False
) -> Sequence[Event]:
    """What the clock alone makes of a job; empty before its time.

    `died_with_others`: should its lease be lost, its worker held other jobs.
    """
    if job.due_at is None or now < job.due_at:
        return []
    return [
        *(
            _ended(job, one.attempt, EndReason.LEASE_LOST)
            for one in job.ending
            if one.lease_expires_at <= now
        ),
        *_woken(job, policy, now, died_with_others=died_with_others),
    ]


def _woken(job: Job, policy: Policy, now: datetime, *, died_with_others: bool) -> Sequence[Event]:
    match job.state:
        case State.RUNNING if job.times_out_at is not None and now >= job.times_out_at:
            return [_timed_out(job, policy, now)]
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
                    was=_was(job.state),
                    reason=CancelReason.EXPIRED,
                )
            ]
        case State.SCHEDULED if not is_future(job.run_at, now):
            return [JobReleased(user_id=job.user_id, kind=job.kind, priority=job.priority)]
        case _:
            return []


def expire_lease(
    job: Job, requeue: RequeueReason, failure: FailureReason, *, died_with_others: bool
) -> Event:
    """A running attempt whose worker is gone. It counts when it may be what killed its worker, or
    a job that does would run for ever.
    """
    counts = loss_counts(job, died_with_others=died_with_others)
    if counts and not _may_fail_again(job):
        return JobFailed(user_id=job.user_id, kind=job.kind, attempt=job.attempt, reason=failure)
    requeued = _requeued(job, requeue, failures=job.failures + counts)
    return replace(requeued, suspect=_is_suspect_after(job))


def loss_counts(job: Job, *, died_with_others: bool) -> bool:
    """Tell if the loss of a worker is a failure of this job.

    Not before its handler has begun. Then, unless its worker held others too: that is forgiven
    once, and the next attempt is made alone, so that it tells. An attempt that is never said to
    have begun is forgiven LOSSES_FREE_MAX times.
    """
    if job.begun_at is None:
        return job.losses >= LOSSES_FREE_MAX
    return job.is_suspect or not died_with_others


def _is_suspect_after(job: Job) -> bool:
    """What is lost again and again without ever saying that it began may kill its worker first."""
    return job.is_suspect or job.begun_at is not None or job.losses > 0


def missed(job: Job) -> WorkerMissed:
    """Another lease of its worker has ended."""
    return WorkerMissed(user_id=job.user_id, kind=job.kind, attempt=job.attempt)


def begun(job: Job) -> AttemptBegun:
    return AttemptBegun(user_id=job.user_id, kind=job.kind, attempt=job.attempt)


def events_despite_refusal(
    refusal: Refusal, job: Job, command: JobCommand, policy: Policy, now: datetime
) -> Sequence[Event]:
    """What an outcome says although it does not count: that its attempt has ended.

    That a time-out is recorded by the late outcome or by whoever looks first comes to the same.
    """
    match command:
        case CompleteJob() | FailJob() | ReturnJob() if isinstance(refusal, TimeWasUp):
            error = command.error if isinstance(command, FailJob) else None
            return [_timed_out(job, policy, now, error, has_ended=True)]
        case CompleteJob(attempt=attempt) | FailJob(attempt=attempt) | ReturnJob(attempt=attempt):
            place = job.ending_attempt(attempt)
            sender = command.worker if isinstance(command, ReturnJob) else None
            if place is not None and sender in {None, place.worker}:
                return [_ended(job, attempt, EndReason.REPORTED)]
        case _:
            pass
    return []


def retry_delay(job: Job, policy: Policy) -> float:
    """Seconds from a further failure to the next attempt: doubling, from half of it to all of it.

    `retry_seconds * 2 ** failures`, the earlier ones, at most `retry_seconds_max`; with the
    defaults about 1, 2, 4, 8 s. The jitter comes from job and attempt, so that deciding again
    decides the same.
    """
    full = min(policy.retry_seconds_max, policy.retry_seconds * 2.0 ** min(job.failures, 60))
    digest = sha256(f"{job.id}:{job.attempt}".encode()).digest()
    return full * (0.5 + int.from_bytes(digest[:4], "big") / 2**33)


def _timed_out(
    job: Job, policy: Policy, now: datetime, error: Body | None = None, *, has_ended: bool = False
) -> Event:
    return JobFailed(
        user_id=job.user_id,
        kind=job.kind,
        attempt=job.attempt,
        reason=FailureReason.TIMED_OUT,
        error_sha256=None if error is None else error.sha256,
        error_bytes=0 if error is None else error.size,
        retry_at=later(now, retry_delay(job, policy)) if _may_fail_again(job) else None,
        holds_place=not has_ended and is_future(job.lease_expires_at, now),
    )


def _may_fail_again(job: Job) -> bool:
    """After one more failure, that is."""
    return job.failures + 1 < job.attempts_granted


def _requeued(job: Job, reason: RequeueReason, *, failures: int) -> JobRequeued:
    return JobRequeued(
        user_id=job.user_id,
        kind=job.kind,
        priority=job.priority,
        attempt=job.attempt,
        reason=reason,
        attempts_max=job.attempt + job.attempts_granted - failures,
    )


def _ended(job: Job, attempt: int, reason: EndReason) -> AttemptEnded:
    return AttemptEnded(user_id=job.user_id, kind=job.kind, attempt=attempt, reason=reason)


def _is_repeated(job: Job, attempt: int, outcome: str) -> bool:
    return job.attempt == attempt and (job.outcome_attempt, job.outcome) == (attempt, outcome)


def _require_current(job: Job, attempt: int, now: datetime) -> None:
    """By the log's clock, whether or not anybody has looked since: see `Job.is_held`."""
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
