"""The life of one job: what may happen to it next, and how it looks after what did.

    scheduled ──released──▶ queued ──started──▶ running ──completed──▶ done
        ▲                     ▲                    │
        └──── failed, a retry is due later ◀───────┤
                              └──── requeued ◀─────┤
                                                   └──failed──▶ failed

Each state but the ended ones can be cancelled; failed and cancelled jobs can be queued again.
The attempt number only ever grows and is the fencing token: whoever holds an older one is refused.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from domain.commands import (
    CancelJob,
    CompleteJob,
    EraseBodies,
    FailJob,
    JobCommand,
    RetryJob,
    ReturnJob,
)
from domain.errors import (
    BodiesAreNeeded,
    JobHasEnded,
    JobHasMovedOn,
    JobHasNotEnded,
    JobWasErased,
    NotTheCurrentAttempt,
)
from domain.events import (
    BodiesErased,
    CancelReason,
    Event,
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LeasesExtended,
    Recorded,
    RequeueReason,
)
from domain.idempotency import key_hash
from domain.identifiers import JobId, Kind, ServerId, UserId, WorkerId
from domain.moments import later
from domain.policy import Policy


class State(StrEnum):
    SCHEDULED = "scheduled"  # waits for a time
    QUEUED = "queued"  # waits for its turn
    RUNNING = "running"  # a worker holds its lease
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Job(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    id: JobId
    user_id: UserId
    kind: Kind
    state: State
    attempt: int = 0  # the latest; 0: never started
    attempts_max: int  # the last attempt that may be made
    attempts_granted: int  # how many it was submitted with; a retry grants as many again
    priority: int = 0
    payload_sha256: str
    payload_bytes: int
    idempotency_key: str
    key_is_explicit: bool
    key_expires_at: datetime
    holds_key: bool = True  # until a newer job takes the key over
    run_at: datetime | None = None  # as submitted, or when the next attempt is due
    expires_at: datetime | None = None
    timeout_seconds: float | None = None
    worker: WorkerId | None = None  # of the latest attempt
    server: ServerId | None = None
    claim_id: str | None = None
    lease_expires_at: datetime | None = None  # while running
    submitted_at: datetime
    started_at: datetime | None = None  # the latest attempt
    started_position: int = 0  # of its JobStarted
    finished_at: datetime | None = None  # done, failed or cancelled
    updated_at: datetime
    result_position: int | None = None  # where the body is
    error_position: int | None = None  # of the latest failure
    outcome_attempt: int = 0  # which attempt reported the outcome below
    erased_at: datetime | None = None  # when what users put in was removed; it cannot run again
    outcome: str | None = None  # "done:<sha256>" or "failed:<sha256>", to recognise a repeat

    @property
    def key_hash(self) -> bytes | None:
        if not self.holds_key:
            return None
        return key_hash(self.user_id, self.idempotency_key, is_explicit=self.key_is_explicit)

    def key_means_it(self, now: datetime) -> bool:
        """Whether its key, while it holds it, still stands for it: for the time that was promised,
        and at least until it has ended.
        """
        return now < self.key_expires_at or self.state not in ENDED

    @property
    def times_out_at(self) -> datetime | None:
        """UTC; when the running attempt has had its time."""
        if self.state is not State.RUNNING or not self.timeout_seconds or self.started_at is None:
            return None
        return later(self.started_at, self.timeout_seconds)

    @property
    def due_at(self) -> datetime | None:
        """UTC; when the clock alone changes this job, None for never."""
        match self.state:
            case State.RUNNING:
                return _earliest(self.lease_expires_at, self.times_out_at)
            case State.SCHEDULED:
                return _earliest(self.run_at, self.expires_at if self.attempt == 0 else None)
            case State.QUEUED:
                return self.expires_at if self.attempt == 0 else None
            case _:
                return None


ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED})


def decide(job: Job, command: JobCommand, policy: Policy, now: datetime) -> Sequence[Event]:
    """Say what happens next; empty if it already has. Raises a Refusal."""
    match command:
        case CompleteJob():
            return _complete(job, command)
        case FailJob():
            return _fail(job, command, policy, now)
        case ReturnJob():
            return _give_back(job, command)
        case CancelJob():
            return _cancel(job)
        case RetryJob():
            return _retry(job, now)
        case EraseBodies():
            return _erase(job, command)
        case _:
            assert_never(command)


def _complete(job: Job, command: CompleteJob) -> Sequence[Event]:
    digest = None if command.result is None else command.result.sha256
    if _is_repeated(job, command.attempt, f"done:{digest}"):
        return []
    _require_current(job, command.attempt)
    return [
        JobCompleted(
            user_id=job.user_id, kind=job.kind, attempt=command.attempt, result_sha256=digest,
            result_bytes=0 if command.result is None else command.result.size,
        )
    ]  # fmt: skip


def _fail(job: Job, command: FailJob, policy: Policy, now: datetime) -> Sequence[Event]:
    if _is_repeated(job, command.attempt, f"failed:{command.error.sha256}"):
        return []
    _require_current(job, command.attempt)
    may_retry = command.may_retry and job.attempt < job.attempts_max
    return [
        JobFailed(
            user_id=job.user_id, kind=job.kind, attempt=job.attempt, reason=FailureReason.ERROR,
            error_sha256=command.error.sha256, error_bytes=command.error.size,
            retry_at=later(now, retry_delay(job, policy)) if may_retry else None,
        )
    ]  # fmt: skip


def _give_back(job: Job, command: ReturnJob) -> Sequence[Event]:
    _require_current(job, command.attempt)
    # One more attempt makes up for the one that never ran to its end.
    return [_requeued(job, RequeueReason.GIVEN_BACK, job.attempts_max + 1)]


def _cancel(job: Job) -> Sequence[Event]:
    if job.state is State.CANCELLED:
        return []
    if job.state in ENDED:
        raise JobHasEnded(job.id, job.state)
    return [JobCancelled(user_id=job.user_id, kind=job.kind, was=_was(job.state))]


def _retry(job: Job, now: datetime) -> Sequence[Event]:
    if job.state not in {State.FAILED, State.CANCELLED}:
        raise JobHasNotEnded(job.id, job.state)
    if job.erased_at is not None:
        raise JobWasErased(job.id)
    attempts_max = job.attempt + job.attempts_granted
    requeued = _requeued(job, RequeueReason.RETRIED, attempts_max)
    is_over = job.expires_at is not None and job.expires_at <= now
    return [
        replace(
            requeued,
            was_cancelled=job.state is State.CANCELLED,
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


def wake(job: Job, policy: Policy, now: datetime) -> Sequence[Event]:
    """What the clock alone makes of a job; empty before its time."""
    if job.due_at is None or now < job.due_at:
        return []
    if job.state is State.RUNNING:
        if job.times_out_at is not None and now >= job.times_out_at:
            return [_timed_out(job, policy, now)]
        return [lose(job, RequeueReason.LEASE_LOST, FailureReason.LEASE_LOST)]
    if job.expires_at is not None and now >= job.expires_at and job.attempt == 0:
        return [
            JobCancelled(
                user_id=job.user_id, kind=job.kind, was=_was(job.state), reason=CancelReason.EXPIRED
            )
        ]
    return [JobReleased(user_id=job.user_id, kind=job.kind, priority=job.priority)]


def lose(job: Job, requeue: RequeueReason, failure: FailureReason) -> Event:
    """A running attempt whose worker is gone. It counts, or a job that kills its worker would
    run for ever.
    """
    if job.attempt >= job.attempts_max:
        return JobFailed(user_id=job.user_id, kind=job.kind, attempt=job.attempt, reason=failure)
    return _requeued(job, requeue, job.attempts_max)


def retry_delay(job: Job, policy: Policy) -> float:
    """Seconds until the attempt after `job.attempt`: doubling, from half of it to all of it.

    `retry_seconds * 2 ** (attempt - 1)`, at most `retry_seconds_max`; with the defaults about 1, 2,
    4, 8 s. The jitter comes from job and attempt, so that deciding again decides the same.
    """
    full = min(policy.retry_seconds_max, policy.retry_seconds * 2.0 ** min(job.attempt - 1, 60))
    digest = sha256(f"{job.id}:{job.attempt}".encode()).digest()
    return full * (0.5 + int.from_bytes(digest[:4], "big") / 2**33)


def _timed_out(job: Job, policy: Policy, now: datetime) -> Event:
    may_retry = job.attempt < job.attempts_max
    return JobFailed(
        user_id=job.user_id, kind=job.kind, attempt=job.attempt, reason=FailureReason.TIMED_OUT,
        retry_at=later(now, retry_delay(job, policy)) if may_retry else None,
    )  # fmt: skip


def _requeued(job: Job, reason: RequeueReason, attempts_max: int) -> JobRequeued:
    return JobRequeued(
        user_id=job.user_id, kind=job.kind, priority=job.priority,
        attempt=job.attempt, reason=reason, attempts_max=attempts_max,
    )  # fmt: skip


def _is_repeated(job: Job, attempt: int, outcome: str) -> bool:
    return job.attempt == attempt and (job.outcome_attempt, job.outcome) == (attempt, outcome)


def _require_current(job: Job, attempt: int) -> None:
    if job.state is not State.RUNNING or attempt != job.attempt:
        raise NotTheCurrentAttempt(job.id, attempt, job.attempt, job.state)


def _was(state: State) -> Literal["queued", "scheduled", "running"]:
    match state:
        case State.QUEUED:
            return "queued"
        case State.SCHEDULED:
            return "scheduled"
        case _:
            return "running"


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)


def is_due(event: JobSubmitted, recorded_at: datetime) -> bool:
    """Whether a submission joins the line at once."""
    return event.run_at is None or event.run_at <= recorded_at


def submitted(recorded: Recorded, event: JobSubmitted) -> Job:
    return Job(
        id=JobId(recorded.position),
        user_id=event.user_id,
        kind=event.kind,
        state=State.QUEUED if is_due(event, recorded.recorded_at) else State.SCHEDULED,
        attempts_max=event.max_attempts,
        attempts_granted=event.max_attempts,
        priority=event.priority,
        payload_sha256=event.payload_sha256,
        payload_bytes=event.payload_bytes,
        idempotency_key=event.idempotency_key,
        key_is_explicit=event.key_is_explicit,
        key_expires_at=event.key_expires_at,
        run_at=event.run_at,
        expires_at=event.expires_at,
        timeout_seconds=event.timeout_seconds,
        submitted_at=recorded.recorded_at,
        updated_at=recorded.recorded_at,
    )


def evolve(job: Job, recorded: Recorded) -> Job:
    """Fold one fact in. Total: history is never refused."""
    at = recorded.recorded_at
    match recorded.event:
        case JobStarted() as event:
            return replace(
                job, state=State.RUNNING, attempt=event.attempt, worker=event.worker,
                server=event.server, claim_id=event.claim_id,
                lease_expires_at=event.lease_expires_at,
                started_at=at, started_position=recorded.position,
                finished_at=None, updated_at=at,
            )  # fmt: skip
        case JobCompleted() as event:
            return replace(
                job, state=State.DONE, lease_expires_at=None, finished_at=at, updated_at=at,
                result_position=None if event.result_sha256 is None else recorded.position,
                outcome_attempt=event.attempt, outcome=f"done:{event.result_sha256}",
            )  # fmt: skip
        case LeasesExtended() as event:
            return replace(job, lease_expires_at=event.lease_expires_at, updated_at=at)
        case JobFailed() as event:
            return replace(
                job,
                state=State.FAILED if event.retry_at is None else State.SCHEDULED,
                run_at=job.run_at if event.retry_at is None else event.retry_at,
                lease_expires_at=None,
                finished_at=at if event.retry_at is None else None,
                updated_at=at,
                error_position=None if event.error_sha256 is None else recorded.position,
                outcome_attempt=event.attempt,
                outcome=f"failed:{event.error_sha256}",
            )
        case JobRequeued() as event:
            return replace(
                job, state=State.QUEUED, attempts_max=event.attempts_max,
                expires_at=(
                    event.expires_at if event.reason is RequeueReason.RETRIED else job.expires_at
                ),
                lease_expires_at=None, finished_at=None, updated_at=at,
            )  # fmt: skip
        case JobReleased():
            return replace(job, state=State.QUEUED, updated_at=at)
        case JobCancelled():
            return replace(
                job, state=State.CANCELLED, lease_expires_at=None, finished_at=at, updated_at=at
            )
        case BodiesErased():
            return replace(job, erased_at=at, updated_at=at)
        case _:
            return job
