"""Jobs, limits and events as answers show them. Times are UTC, by the log's clock."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from adapters.log.audit_log import StoredEvent
from domain.jobs.failure import KnownError, unreported_error
from domain.jobs.job import ENDED, Job, State
from domain.language.events import AfterFailure, FailureReason, caused_by
from domain.language.identifiers import JobId, KeyName, Kind, UserId, WorkerId
from domain.language.ranges import (
    ATTEMPT,
    JOB_ID,
    NAME,
    POSITION,
    Count,
    Limit,
    MaxAttempts,
    Name,
    Priority,
    Time,
    TimeoutSeconds,
)
from domain.language.retry_fields import RetryFields, retry_fields
from domain.limits.rate_limits import WindowState
from entrypoints.runtime.text import type_and_message

_NULL = Raw(b"null")

_JobId = Annotated[JobId, JOB_ID, Meta(description="The job's id: the position of its submission.")]
_UserId = Annotated[UserId, NAME, Meta(description="The user, 1 to 255 bytes.")]
_Kind = Annotated[Kind, NAME, Meta(description="The kind of job, 1 to 255 bytes.")]
_Attempt = Annotated[int, ATTEMPT, Meta(description="The attempt, which only ever grows.")]
_Position = Annotated[int, POSITION]
_JobsByState = Annotated[dict[State, Count], Meta(description="Jobs by state.")]
_Total = Annotated[Count, Meta(description="All jobs.")]
_WaitingJobs = Annotated[Count, Meta(description="Jobs that wait for their turn.")]
_RunningJobs = Annotated[Count, Meta(description="Jobs that run.")]
_RunningLimit = Annotated[
    Limit | None, Meta(description="How many jobs may run at once. null: no limit.")
]
_WindowLimit = Annotated[Limit, Meta(description="Submissions that a window allows.")]
_Used = Annotated[Count, Meta(description="Submissions admitted in the current window.")]
_Remaining = Annotated[Count, Meta(description="Submissions that the window still allows.")]
_WindowSeconds = Annotated[int, Meta(description="Length of a window in seconds.", ge=1)]
_ResetsAt = Annotated[Time, Meta(description="When the window ends, exclusive.")]


class FailureView(Struct, kw_only=True):
    """The latest attempt that failed or was lost."""

    attempt: _Attempt
    reason: Annotated[
        FailureReason,
        Meta(
            description="error: its worker reported an error. timed_out: it ran too long. "
            "lease_lost: its worker sent no heartbeat. server_restarted: its server ended. "
            "parent_failed: no attempt was made, since a job that it comes after failed or was "
            "cancelled."
        ),
    ]
    type: Annotated[str, Meta(description="The type of the error.")]
    message: Annotated[str, Meta(description="Its message, at most 300 characters.")]


class ProgressView(Struct, kw_only=True):
    """The latest report of how far a handler is."""

    fraction: Annotated[float, Meta(description="The part that is done, 0 to 1.", ge=0, le=1)]
    message: Annotated[str, Meta(description="What it is doing, at most 500 characters.")]
    reported_at: Annotated[Time, Meta(description="When that was recorded.")]


class DuplicateView(Struct, kw_only=True):
    """The reason that a submission was taken for an earlier one."""

    job_id: _JobId
    submitted_at: Annotated[Time, Meta(description="When that job was submitted.")]
    expires_at: Annotated[
        Time,
        Meta(
            description="Until when the key identifies the job; an open job is identified even "
            "later."
        ),
    ]
    by: Annotated[
        Literal["idempotency_key", "digest"],
        Meta(
            description="idempotency_key: the key that was sent. digest: no key was sent, and all "
            "that makes a job different is equal."
        ),
    ]
    reason: Annotated[str, Meta(description="Why, and how to submit another job, in sentences.")]


class CallbackTargetView(Struct, frozen=True):
    """The address at which the end of a job is told."""

    url: Annotated[str, Meta(description="The URL of the submission.")]


class JobView(Struct, kw_only=True):
    """The current state of a job."""

    id: _JobId
    user_id: _UserId
    kind: _Kind
    payload: Annotated[
        Raw | UnsetType,
        Meta(description="The input of its handler. A list has it only with include=payload."),
    ] = UNSET
    state: Annotated[State, Meta(description="What the job waits for, or how it ended.")]
    attempt: Annotated[
        Count, Meta(description="The latest attempt, the fencing token. 0: never claimed.")
    ]
    starts: Annotated[
        Count, Meta(description="Attempts whose handler started, as far as the log knows.")
    ]
    failures: Annotated[
        Count, Meta(description="Attempts that failed since it was submitted or retried.")
    ]
    max_attempts: Annotated[
        MaxAttempts, Meta(description="How many attempts may fail before the job fails.")
    ]
    priority: Annotated[
        Priority, Meta(description="The order among the user's own jobs: a higher one is sooner.")
    ]
    resources: Annotated[
        tuple[Name, ...], Meta(description="The resources that it uses, by name.")
    ] = ()
    after: Annotated[
        tuple[Annotated[JobId, JOB_ID], ...],
        Meta(description="The jobs that it comes after, by id."),
    ] = ()
    after_failure: Annotated[
        AfterFailure | None,
        Meta(
            description="What becomes of it if one of them fails or is cancelled. null: it comes "
            "after none."
        ),
    ] = None
    waits_for: Annotated[
        tuple[Annotated[JobId, JOB_ID], ...],
        Meta(
            description="The jobs of `after` that have not ended. It starts once all of them have."
        ),
    ] = ()
    callback: Annotated[
        CallbackTargetView | None,
        Meta(description="Where its end is told, besides endpoints. null: only to endpoints."),
    ] = None
    result: Annotated[
        Raw | UnsetType,
        Meta(description="What its handler returned, or null. A list has it with include=result."),
    ] = msgspec.field(default_factory=lambda: _NULL)
    error: Annotated[
        Raw | UnsetType,
        Meta(
            description="The error of the latest failed attempt, as its worker reported it; an "
            "object with type, message and attempt if no worker could; null: none failed. A list "
            "shortens it unless include=error is given."
        ),
    ] = msgspec.field(default_factory=lambda: _NULL)
    failure: Annotated[
        FailureView | None, Meta(description="The latest attempt that failed, or null.")
    ] = None
    idempotency_key: Annotated[
        Name, Meta(description="Its key, or the hexadecimal digest of its content.")
    ]
    is_duplicate: Annotated[
        bool | UnsetType,
        Meta(description="Whether the key was known already. Only in answers to submissions."),
    ] = UNSET
    duplicate: Annotated[
        DuplicateView | UnsetType,
        Meta(description="Why the submission is a duplicate. Only if is_duplicate is true."),
    ] = UNSET
    erased: Annotated[
        bool | UnsetType,
        Meta(description="true: payload, result and error were erased, and are null here."),
    ] = UNSET
    run_at: Annotated[
        Time | None,
        Meta(
            description="It does not start before; after a failure, when the next attempt is due."
        ),
    ]
    expires_at: Annotated[
        Time | None, Meta(description="It is cancelled if it has not started by then. null: never.")
    ]
    timeout_seconds: Annotated[
        TimeoutSeconds | None,
        Meta(description="The longest run of one attempt, in seconds. null: no time-out."),
    ]
    retry: Annotated[
        RetryFields | None,
        Meta(
            description="When another attempt follows a failed one. null: after about 1, 2, 4, … "
            "seconds, at most an hour."
        ),
    ] = None
    worker: Annotated[
        WorkerId | None, NAME, Meta(description="The worker of the latest attempt, or null.")
    ]
    lease_expires_at: Annotated[
        Time | None, Meta(description="When the worker's lease ends, or null: it does not run.")
    ]
    submitted_at: Annotated[Time, Meta(description="When it was submitted.")]
    started_at: Annotated[
        Time | None, Meta(description="When the latest attempt was claimed. null: never.")
    ]
    begun_at: Annotated[
        Time | None,
        Meta(
            description="When the handler of that attempt started, as far as the log knows. null: "
            "it has not."
        ),
    ]
    progress: Annotated[
        ProgressView | None,
        Meta(description="The latest report of that attempt's handler. null: it has made none."),
    ] = None
    finished_at: Annotated[Time | None, Meta(description="When it ended. null: it has not.")]
    updated_at: Annotated[Time, Meta(description="When it changed last.")]


def job_view(
    job: Job,
    payload: bytes | UnsetType,
    result: bytes | UnsetType | None = None,
    error: bytes | UnsetType | None = None,
    *,
    progress_message: bytes | None = None,
    is_duplicate: bool | UnsetType = UNSET,
) -> JobView:
    """Return the view of a job with its bodies, which are JSON; None: null, UNSET: left out."""
    unreported = unreported_error(job)
    if unreported is not None and error is not UNSET:
        error = msgspec.json.encode(unreported)
    return JobView(
        id=job.id,
        user_id=job.user_id,
        kind=job.kind,
        payload=UNSET if payload is UNSET else Raw(payload),
        state=job.state,
        attempt=job.attempt,
        starts=job.starts,
        failures=job.failures,
        max_attempts=job.attempts_granted,
        priority=job.priority,
        resources=job.resources,
        after=job.after,
        after_failure=job.after_failure,
        waits_for=() if job.state in ENDED else job.waits_for,
        callback=None if job.callback is None else CallbackTargetView(job.callback),
        result=_NULL if result is None else UNSET if result is UNSET else Raw(result),
        error=_NULL if error is None else UNSET if error is UNSET else Raw(error),
        failure=_failure_view(job, unreported, error),
        idempotency_key=job.idempotency_key,
        is_duplicate=is_duplicate,
        erased=UNSET if job.erased_at is None else True,
        run_at=job.run_at,
        expires_at=job.expires_at,
        timeout_seconds=job.timeout_seconds,
        retry=retry_fields(job.retry),
        worker=job.worker,
        lease_expires_at=job.lease_expires_at,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        begun_at=job.begun_at,
        progress=_progress_view(job, progress_message),
        finished_at=job.finished_at,
        updated_at=job.updated_at,
    )


def _progress_view(job: Job, message: bytes | None) -> ProgressView | None:
    if job.progress is None or job.progress_at is None:
        return None
    text = "" if message is None else msgspec.json.decode(message, type=str)
    return ProgressView(fraction=job.progress, message=text, reported_at=job.progress_at)


def _failure_view(
    job: Job, unreported: KnownError | None, error: bytes | UnsetType | None
) -> FailureView | None:
    if job.failure is None:
        return None
    name, message = "Error", ""
    if unreported is not None:
        name, message = unreported.type, unreported.message
    elif isinstance(error, bytes):
        name, message = type_and_message(error)
    return FailureView(attempt=job.failed_attempt, reason=job.failure, type=name, message=message)


def as_duplicate(view: JobView, job: Job) -> JobView:
    """Return the view as the answer to a submission that repeats the job."""
    view.is_duplicate = True
    submitted = f"{job.submitted_at:%Y-%m-%dT%H:%M:%SZ}"
    if job.key_is_explicit:
        reason = (
            f"The idempotency key {job.idempotency_key!r} identifies job {job.id}, submitted at "
            f"{submitted}. Send another key to submit another job."
        )
    else:
        reason = (
            f"No idempotency key was sent, and job {job.id}, submitted at {submitted}, is equal in "
            'user, kind, payload and options. Send a key of your own, or "deduplicate": false, to '
            "submit another job."
        )
    view.duplicate = DuplicateView(
        job_id=job.id,
        submitted_at=job.submitted_at,
        expires_at=job.key_expires_at,
        by="idempotency_key" if job.key_is_explicit else "digest",
        reason=reason,
    )
    return view


class JobPage(Struct):
    """A page of jobs, newest first."""

    jobs: Annotated[Sequence[JobView], Meta(description="The jobs, at most 1000.")]
    next: Annotated[
        str | None, Meta(description="The cursor of the next page. null: this is the last page.")
    ]


class ClaimedJob(Struct, frozen=True, omit_defaults=True):
    """A job that a worker holds from now on."""

    id: _JobId
    user_id: _UserId
    kind: _Kind
    payload: Annotated[Raw, Meta(description="The input of its handler: any JSON value.")]
    attempt: _Attempt
    lease_expires_at: Annotated[
        Time | None,
        Meta(
            description="When the lease ends unless a heartbeat extends it. A job that is held "
            "always has one, so it is never null here."
        ),
    ]
    timeout_seconds: Annotated[
        TimeoutSeconds | None,
        Meta(description="The longest run of the handler, in seconds. null: no time-out."),
    ]
    started: Annotated[
        bool,
        Meta(description="false: the worker reports with a heartbeat when the handler starts."),
    ] = True
    alone: Annotated[
        bool, Meta(description="true: the worker must run no other job at the same time.")
    ] = False


class EventView(Struct, frozen=True):
    """An event of the log."""

    position: Annotated[_Position, Meta(description="Its place in the log, from 1, without gaps.")]
    type: Annotated[str, Meta(description="The name of its type.")]
    version: Annotated[int, Meta(description="The version of its type, from 1.", ge=1)]
    user_id: Annotated[UserId | None, NAME, Meta(description="The user it is about, or null.")]
    job_id: Annotated[JobId | None, JOB_ID, Meta(description="The job it is about, or null.")]
    recorded_at: Annotated[Time, Meta(description="When it was recorded.")]
    by: Annotated[
        KeyName | None, Meta(description="The API key of the caller that caused it, or null.")
    ]
    data: Annotated[Raw, Meta(description="The event's own fields, an object.")]
    hash: Annotated[
        str, Meta(description="SHA-256 of the chain up to this event, 64 hexadecimal digits.")
    ]


def event_view(event: StoredEvent) -> EventView:
    """Return the view of a stored event."""
    return EventView(
        event.position,
        event.type,
        event.version,
        event.user_id,
        event.job_id,
        event.recorded_at,
        caused_by(event.data),
        Raw(event.data),
        event.hash.hex(),
    )


class EventPage(Struct, frozen=True):
    """A page of events in log order."""

    events: Annotated[Sequence[EventView], Meta(description="The events, at most 1000.")]
    next: Annotated[
        int | None,
        POSITION,
        Meta(description="The position to continue after. null: no more events match now."),
    ]


class WindowView(Struct, frozen=True, kw_only=True):
    """A rate-limit window."""

    limit: _WindowLimit
    used: _Used
    remaining: _Remaining
    window_seconds: _WindowSeconds
    resets_at: _ResetsAt
    running: _RunningLimit = None


def window_view(window: WindowState, running: int | None) -> WindowView:
    """Return the view of a window. `running` is the limit of running jobs; None: no limit."""
    return WindowView(
        limit=window.limit,
        used=window.used,
        remaining=window.remaining,
        window_seconds=window.window_seconds,
        resets_at=window.resets_at,
        running=running,
    )


class KindView(Struct, frozen=True):
    """A kind of job, in numbers."""

    kind: _Kind
    waiting: _WaitingJobs
    running: _RunningJobs
    running_limit: _RunningLimit


class LineView(Struct, frozen=True):
    """The waiting line: its numbers and the users at its front."""

    waiting: _WaitingJobs
    kinds: Annotated[
        Sequence[KindView], Meta(description="The kinds with jobs or a limit, at most 200.")
    ]
    next: Annotated[
        Sequence["TurnView"], Meta(description="The first 20 users, in the order of their turns.")
    ]


class TurnView(Struct, frozen=True):
    """A user's place in the line."""

    user_id: _UserId
    turn: Annotated[_Position, Meta(description="What the line is ordered by: lower is sooner.")]
    last_served: Annotated[
        int | None, POSITION, Meta(description="The position of the latest start. null: none.")
    ]
    waiting: _WaitingJobs
    running: _RunningJobs


class RatesView(Struct, frozen=True):
    """Totals of the server's writer since it started."""

    batches: Annotated[Count, Meta(description="Batches committed.")]
    commands: Annotated[Count, Meta(description="Commands decided.")]
    events: Annotated[Count, Meta(description="Events appended.")]
    retries: Annotated[Count, Meta(description="Transactions tried again.")]
    queue: Annotated[Count, Meta(description="Commands that wait for an answer now.")]
    uptime_seconds: Annotated[float, Meta(description="Seconds since this server started.", ge=0)]


class StatsView(Struct, frozen=True, kw_only=True):
    """The service in numbers."""

    position: Annotated[_Position, Meta(description="The position of the latest event.")]
    jobs: _JobsByState
    total: _Total
    line: Annotated[LineView, Meta(description="The waiting line.")]
    global_: Annotated[WindowView, Meta(description="The window of all users together.")] = (
        msgspec.field(name="global")
    )
    rates: Annotated[RatesView, Meta(description="What this server has done.")]
