"""The words that histories are told in: commands and events, their unimportant parts filled in."""

from datetime import datetime
from typing import Any, Literal

from domain.language.bodies import Body, body_of
from domain.language.commands import (
    ClaimJobs,
    CompleteJob,
    FailJob,
    ReportRefusals,
    ReturnJob,
    SubmitJob,
)
from domain.language.events import (
    AttemptBegun,
    AttemptEnded,
    CancelReason,
    EndReason,
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LeasesExtended,
    RateLimitDecided,
    RequeueReason,
    Scope,
    WorkerMissed,
)
from domain.language.idempotency import content_digest
from domain.language.identifiers import JobId, Kind, ServerId, UserId, WorkerId
from tests.support.given import NOW, at

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
ECHO, SLEEP = Kind("echo"), Kind("sleep")
WORKER, OTHER_WORKER = WorkerId("worker-1"), WorkerId("worker-2")
SERVER = ServerId("server-1")
JOB = JobId(1)  # the only one of most histories
LEASE_END = at(30)  # of a claim at NOW


def body(value: Any = 1) -> Body:
    return body_of(value, "payload")


RESULT = body_of({"sum": 3}, "result")
ERROR = body_of({"message": "it broke"}, "error")


def submit(
    user_id: UserId = ALICE, kind: Kind = ECHO, payload: Any = 1, **details: Any
) -> SubmitJob:
    return SubmitJob(user_id=user_id, kind=kind, payload=body(payload), **details)


def claim(jobs_max: int = 1, *kinds: Kind, worker: WorkerId = WORKER, **details: Any) -> ClaimJobs:
    """Claim jobs; without kinds, of any kind."""
    return ClaimJobs(worker=worker, max_jobs=jobs_max, kinds=kinds or None, **details)


def complete(attempt: int = 1, job_id: JobId = JOB, result: Body | None = RESULT) -> CompleteJob:
    return CompleteJob(job_id=job_id, attempt=attempt, result=result)


def fail(attempt: int = 1, job_id: JobId = JOB, *, may_retry: bool = True) -> FailJob:
    return FailJob(job_id=job_id, attempt=attempt, error=ERROR, may_retry=may_retry)


def give_back(
    attempt: int = 1, job_id: JobId = JOB, *, begun: bool | None = None, suspect: bool = False
) -> ReturnJob:
    return ReturnJob(job_id=job_id, attempt=attempt, begun=begun, suspect=suspect)


def refusals(count: int = 1, user_id: UserId = ALICE, **details: Any) -> ReportRefusals:
    """A report of submissions that were refused without the writer."""
    used = details.pop("used", 1)
    times = {"window_start": NOW, "first_at": NOW, "last_at": NOW}
    fields = {"scope": Scope.USER, "limit": used, "window_seconds": 60} | times
    return ReportRefusals(user_id=user_id, used=used, count=count, **(fields | details))


def admitted(user_id: UserId = ALICE, used: int = 1, **details: Any) -> RateLimitDecided:
    """The decision that lets a submission in, by the default policy at NOW."""
    fields: dict[str, Any] = {
        "scope": Scope.USER,
        "allowed": True,
        "limit": 600,
        "window_start": NOW,
        "window_seconds": 60,
        "global_used": used,
        "global_limit": 6000,
    }
    return RateLimitDecided(user_id=user_id, used=used, **(fields | details))


def submitted(
    user_id: UserId = ALICE, kind: Kind = ECHO, payload: Any = 1, **details: Any
) -> JobSubmitted:
    """Return the events of `submit` with the same arguments at NOW."""
    content = body(payload)
    fields: dict[str, Any] = {
        "payload_sha256": content.sha256,
        "payload_bytes": content.size,
        "max_attempts": 3,
        "idempotency_key": content_digest(kind, content),
        "key_expires_at": at(86_400),
    }
    return JobSubmitted(user_id=user_id, kind=kind, **(fields | details))


def released(user_id: UserId = ALICE, kind: Kind = ECHO, priority: int = 0) -> JobReleased:
    return JobReleased(user_id=user_id, kind=kind, priority=priority)


def started(
    attempt: int = 1,
    user_id: UserId = ALICE,
    kind: Kind = ECHO,
    worker: WorkerId = WORKER,
    lease_expires_at: datetime = LEASE_END,
    **details: Any,
) -> JobStarted:
    return JobStarted(
        user_id=user_id,
        kind=kind,
        attempt=attempt,
        worker=worker,
        lease_expires_at=lease_expires_at,
        **details,
    )


def extended(
    *jobs: tuple[int, int], worker: WorkerId = WORKER, lease_expires_at: datetime = LEASE_END
) -> LeasesExtended:
    return LeasesExtended(
        worker=worker,
        lease_expires_at=lease_expires_at,
        jobs=tuple((JobId(job_id), attempt) for job_id, attempt in jobs),
    )


def completed(
    attempt: int = 1, user_id: UserId = ALICE, kind: Kind = ECHO, result: Body | None = RESULT
) -> JobCompleted:
    return JobCompleted(
        user_id=user_id,
        kind=kind,
        attempt=attempt,
        result_sha256=None if result is None else result.sha256,
        result_bytes=0 if result is None else result.size,
    )


def failed(
    attempt: int = 1, retry_at: datetime | None = None, user_id: UserId = ALICE, kind: Kind = ECHO
) -> JobFailed:
    return JobFailed(
        user_id=user_id,
        kind=kind,
        attempt=attempt,
        reason=FailureReason.ERROR,
        error_sha256=ERROR.sha256,
        error_bytes=ERROR.size,
        retry_at=retry_at,
    )


def gave_up(
    reason: FailureReason,
    attempt: int = 1,
    retry_at: datetime | None = None,
    *,
    holds_place: bool = False,
) -> JobFailed:
    """An attempt that failed without a word from its worker."""
    return JobFailed(
        user_id=ALICE,
        kind=ECHO,
        attempt=attempt,
        reason=reason,
        retry_at=retry_at,
        holds_place=holds_place,
    )


def requeued(
    reason: RequeueReason,
    attempt: int = 1,
    attempts_max: int = 3,
    user_id: UserId = ALICE,
    kind: Kind = ECHO,
    priority: int = 0,
    **details: Any,
) -> JobRequeued:
    return JobRequeued(
        user_id=user_id,
        kind=kind,
        attempt=attempt,
        reason=reason,
        attempts_max=attempts_max,
        priority=priority,
        **details,
    )


def cancelled(
    was: Literal["queued", "scheduled", "running"] = "queued",
    reason: CancelReason = CancelReason.REQUESTED,
    **details: Any,
) -> JobCancelled:
    """Cancel a running job as older logs do, unless the details name the attempt."""
    return JobCancelled(user_id=ALICE, kind=ECHO, was=was, reason=reason, **details)


def attempt_begun(attempt: int = 1) -> AttemptBegun:
    return AttemptBegun(user_id=ALICE, kind=ECHO, attempt=attempt)


def attempt_ended(reason: EndReason = EndReason.REPORTED, attempt: int = 1) -> AttemptEnded:
    return AttemptEnded(user_id=ALICE, kind=ECHO, attempt=attempt, reason=reason)


def worker_missed(attempt: int = 1) -> WorkerMissed:
    return WorkerMissed(user_id=ALICE, kind=ECHO, attempt=attempt)


SUBMITTED = submitted()
