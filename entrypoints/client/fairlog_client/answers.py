"""Answers of the server, as types. Unknown members are ignored: a newer server may send more.

Times are UTC, by the log's clock.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from fairlog_client.retry_policies import RetryPolicy

State = Literal["queued", "scheduled", "running", "done", "failed", "cancelled"]

ENDED: frozenset[str] = frozenset({"done", "failed", "cancelled"})
NULL = Raw(b"null")


class Failure(Struct, frozen=True, kw_only=True):
    """The latest attempt that failed or was lost."""

    attempt: int
    reason: str  # error, timed_out, lease_lost or server_restarted
    type: str
    message: str  # at most 300 characters


class Progress(Struct, frozen=True, kw_only=True):
    """The latest report of how far a handler is."""

    fraction: float  # the part that is done, 0 to 1
    message: str  # what it is doing
    reported_at: datetime


class CallbackTarget(Struct, frozen=True):
    """The address at which the end of a job is told."""

    url: str


class JobState(Struct, frozen=True, kw_only=True):
    """A job as the server described it last; see `Job` for the meaning of the fields."""

    id: int
    user_id: str
    kind: str
    state: State
    attempt: int
    max_attempts: int
    priority: int = 0
    payload: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    failure: Failure | None = None
    progress: Progress | None = None
    idempotency_key: str
    is_duplicate: bool = False
    run_at: datetime | None = None
    expires_at: datetime | None = None
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None  # None: the default of Fairlog itself
    resources: Sequence[str] = ()
    after: Sequence[int] = ()  # ids of the jobs that it comes after
    after_failure: str | None = None  # if one of them fails; None: it comes after none
    callback: CallbackTarget | None = None  # where its end is told, besides endpoints
    waits_for: Sequence[int] = ()  # those of them that have not ended
    worker: str | None = None
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime


class JobsPage(Struct, frozen=True):
    """A page of jobs, newest first."""

    jobs: Sequence[JobState]
    next: str | None = None  # the cursor of the next page; None: this is the last one


class Event(Struct, frozen=True, kw_only=True):
    """An event of the log."""

    position: int  # its place in the log, from 1, without gaps
    type: str
    version: int
    user_id: str | None
    job_id: int | None
    recorded_at: datetime
    by: str | None = None  # the name of the API key that caused it
    data: Mapping[str, Any]
    hash: str  # of the chain up to this event, in hexadecimal digits


class EventsPage(Struct, frozen=True):
    """A page of events, in log order."""

    events: Sequence[Event]
    next: int | None = None  # the position to continue after; None: no more events match now


class Explanation(Struct, frozen=True, kw_only=True):
    """Reasons why a job has not started, or how it ended."""

    job_id: int
    state: State
    summary: str  # a sentence
    reasons: Sequence[Mapping[str, Any]]  # each with `code`, `text` and numbers


class Rate(Struct, frozen=True):
    """A limit in each window of some length."""

    limit: int
    seconds: int


class WindowUse(Struct, frozen=True):
    """A further window of submissions, and its use."""

    name: str  # in the RateLimit header fields
    limit: int
    seconds: int
    used: int
    remaining: int
    resets_at: datetime  # exclusive


class Limits(Struct, frozen=True, kw_only=True):
    """Limits, and the use of the windows of submissions."""

    limit: int  # submissions that a window allows
    used: int
    remaining: int
    window_seconds: int
    resets_at: datetime  # exclusive
    running: int | None = None  # how many jobs may run at once; None: any number
    windows: Sequence[WindowUse] = ()  # further ones; all have to allow
    paused: bool = False  # no job starts


class UserLimits(Limits, frozen=True, kw_only=True):
    """A user's limits, each the user's own or that of the plan."""

    user_id: str
    plan: str | None = None  # whose limits apply; None: none
    throttle: Rate | None = None  # starts of jobs; None: not limited
    weight: float = 1.0  # share of the service
    max_attempts: int | None = None  # that a job may ask for; None: any number
    priority_max: int | None = None  # likewise
    global_: Limits = field(name="global")


class Plan(Struct, frozen=True, kw_only=True):
    """A plan: the limits of all users on it. None: as without a plan."""

    name: str
    users: int  # who have been put on it
    limit: int | None = None  # submissions per window of the server
    running: int | None = None
    windows: Sequence[Rate] | None = None
    throttle: Rate | None = None
    weight: float | None = None
    paused: bool | None = None
    max_attempts: int | None = None
    priority_max: int | None = None


class PlansPage(Struct, frozen=True):
    """A page of plans, by name."""

    plans: Sequence[Plan]
    next: str | None = None  # the cursor of the next page; None: no more


class Push(Struct, frozen=True, kw_only=True):
    """The endpoint that the jobs of a kind are posted to."""

    url: str
    timeout_seconds: float = 300.0  # how long a request may take
    secret_version: int = 1  # of the secret that requests are signed with


class KindLimits(Struct, frozen=True, kw_only=True):
    """A kind of job: its limits, and how it stands."""

    kind: str
    waiting: int
    running: int
    running_limit: int | None = None
    throttle: Rate | None = None
    paused: bool = False
    timeout_seconds: float | None = None  # None: the server's
    push: Push | None = None  # None: its jobs are claimed by workers


class ScheduleRun(Struct, frozen=True, kw_only=True):
    """A run of a schedule: one due time, a trigger, or a time of a backfill."""

    due_at: datetime  # the time that it is for
    cause: str  # time, buffer, trigger or backfill
    outcome: str  # submitted, buffered, overlap, missed, deferred or refused
    job_id: int | None = None  # that was submitted
    reason: str | None = None  # why the submission was refused
    decided_at: datetime | None = None  # of `Schedule.last_run`


class Backfill(Struct, frozen=True, kw_only=True):
    """A backfill that goes on."""

    next_at: datetime  # the due time that it comes to next
    until: datetime  # exclusive


class Schedule(Struct, frozen=True, kw_only=True):
    """A schedule and its runs."""

    name: str
    user_id: str
    kind: str
    payload: Any = None
    cron: str | None = None
    every_seconds: int | None = None
    time_zone: str = "UTC"
    overlap: str
    catch_up_seconds: int
    jitter_seconds: int
    paused: bool
    created_at: datetime
    changed_at: datetime
    next_run_at: datetime | None = None  # with its jitter; None: paused
    next_due_at: Sequence[datetime] = ()  # the next due times
    last_run: ScheduleRun | None = None
    last_job_id: int | None = None
    buffered_at: datetime | None = None  # due time of the run that waits for the latest job
    backfill: Backfill | None = None
    run: ScheduleRun | None = None  # what came of a trigger


class Callback(Struct, frozen=True, kw_only=True):
    """An endpoint that is told the ends of jobs."""

    name: str
    url: str
    kinds: Sequence[str] = ()  # whose ends it is told; empty: any
    users: Sequence[str] = ()  # likewise
    created_at: datetime | None = None
    changed_at: datetime | None = None
    secret_version: int = 1
    earlier_secret_until: datetime | None = None  # the secret before it signs, too, until then


class Callbacks(Struct, frozen=True):
    """All endpoints."""

    callbacks: list[Callback]


class SchedulesPage(Struct, frozen=True):
    """A page of schedules, by name."""

    schedules: Sequence[Schedule]
    next: str | None = None  # the cursor of the next page; None: no more


class BatchOutcome(Struct, frozen=True):
    """The answer to one submission of a batch."""

    status: int
    job: JobState | None = None
    problem: dict[str, Any] | None = None


class BatchOutcomes(Struct, frozen=True):
    """The answers to a batch, in order."""

    jobs: Sequence[BatchOutcome]


def decoded(value: Raw | UnsetType) -> Any:  # noqa: ANN401 (any JSON value)
    """Return the value of a body; None if the answer left it out."""
    return None if value is UNSET else msgspec.json.decode(value)
