"""How jobs, limits and events look to those who ask: the shapes of every answer."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from adapters.log.audit_log import StoredEvent
from domain.jobs.job import Job, State
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from domain.limits.rate_limits import WindowState

_NULL = Raw(b"null")


class JobView(Struct, kw_only=True):
    """A job as it stands. Times are UTC."""

    id: JobId
    user_id: UserId
    kind: Kind
    payload: Raw | UnsetType  # any JSON value; a list leaves it out unless it is asked for
    state: State
    attempt: int  # the latest, the fencing token; 0: never claimed
    starts: int  # attempts whose handler began, as far as the log knows
    failures: int  # since it was submitted or retried
    max_attempts: int  # so many may fail
    priority: int
    result: Raw | UnsetType = msgspec.field(default_factory=lambda: _NULL)  # likewise
    # Of the latest failed attempt, as its worker reported it.
    error: Raw | UnsetType = msgspec.field(default_factory=lambda: _NULL)
    idempotency_key: str
    is_duplicate: bool | UnsetType = UNSET  # in the answer to a submission
    erased: bool | UnsetType = UNSET  # true: payload, result and error are gone, and null here
    run_at: datetime | None  # not served earlier; of a failed attempt, when the next is due
    expires_at: datetime | None
    timeout_seconds: float | None
    worker: WorkerId | None  # of the latest attempt
    lease_expires_at: datetime | None  # while running
    submitted_at: datetime
    started_at: datetime | None  # when the latest attempt was claimed
    begun_at: datetime | None  # when its handler began, as far as the log knows
    finished_at: datetime | None
    updated_at: datetime


def job_view(
    job: Job,
    payload: bytes | UnsetType,
    result: bytes | UnsetType | None = None,
    error: bytes | UnsetType | None = None,
    *,
    is_duplicate: bool | UnsetType = UNSET,
) -> JobView:
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
        result=_NULL if result is None else UNSET if result is UNSET else Raw(result),
        error=_NULL if error is None else UNSET if error is UNSET else Raw(error),
        idempotency_key=job.idempotency_key,
        is_duplicate=is_duplicate,
        erased=UNSET if job.erased_at is None else True,
        run_at=job.run_at,
        expires_at=job.expires_at,
        timeout_seconds=job.timeout_seconds,
        worker=job.worker,
        lease_expires_at=job.lease_expires_at,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        begun_at=job.begun_at,
        finished_at=job.finished_at,
        updated_at=job.updated_at,
    )


class JobPage(Struct):
    jobs: Sequence[JobView]
    next: str | None  # the cursor of the next page; None on the last


class ClaimedJob(Struct, frozen=True, omit_defaults=True):
    id: JobId
    user_id: UserId
    kind: Kind
    payload: Raw
    attempt: int
    lease_expires_at: datetime | None
    timeout_seconds: float | None
    started: bool = True  # False: its worker says with a heartbeat when its handler begins
    alone: bool = False  # its worker runs nothing beside it


class EventView(Struct, frozen=True):
    position: int
    type: str
    version: int
    user_id: UserId | None
    job_id: JobId | None
    recorded_at: datetime
    data: Raw  # the event
    hash: str  # hex; the chain up to here


def event_view(event: StoredEvent) -> EventView:
    return EventView(
        event.position,
        event.type,
        event.version,
        event.user_id,
        event.job_id,
        event.recorded_at,
        Raw(event.data),
        event.hash.hex(),
    )


class EventPage(Struct, frozen=True):
    events: Sequence[EventView]
    next: int | None  # the position to ask behind; None when this was the end


class WindowView(Struct, frozen=True, kw_only=True):
    limit: int  # submissions a window
    used: int
    remaining: int
    window_seconds: int
    resets_at: datetime
    running: int | None = None  # the cap on jobs running at once; None: no cap


def window_view(window: WindowState, running: int | None) -> WindowView:
    return WindowView(
        limit=window.limit,
        used=window.used,
        remaining=window.remaining,
        window_seconds=window.window_seconds,
        resets_at=window.resets_at,
        running=running,
    )


class UserLimitsView(Struct, frozen=True, kw_only=True):
    """The user's own window at the top level, and the one of all users together."""

    user_id: UserId
    limit: int
    used: int
    remaining: int
    window_seconds: int
    resets_at: datetime
    running: int | None
    global_: WindowView = msgspec.field(name="global")


class KindView(Struct, frozen=True):
    kind: Kind
    waiting: int
    running: int
    running_limit: int | None


class LineView(Struct, frozen=True):
    """The waiting line in numbers, and its front."""

    waiting: int  # jobs
    kinds: Sequence[KindView]
    next: Sequence["TurnView"]  # the first few, the next to be served first


class TurnView(Struct, frozen=True):
    user_id: UserId
    turn: int  # a position: the lower the sooner
    last_served: int | None
    waiting: int  # jobs
    running: int


class RatesView(Struct, frozen=True):
    """What this process did since it started."""

    batches: int
    commands: int
    events: int
    retries: int
    queue: int  # commands waiting to be written
    uptime_seconds: float


class StatsView(Struct, frozen=True, kw_only=True):
    position: int  # of the latest event
    jobs: dict[State, int]  # by state
    total: int
    line: LineView
    global_: WindowView = msgspec.field(name="global")
    rates: RatesView


class LimitView(Struct, frozen=True):
    """What was set for one user, one kind or, with neither, for all together. None: the default."""

    user_id: UserId | None
    kind: Kind | None
    limit: int | None  # submissions a window
    running: int | None  # at once


class PastStateView(Struct, frozen=True, kw_only=True):
    """`StatsView` as it was, with the limits that were set.

    A default is the one that the latest decision by then was made with; today's where none tells.
    """

    position: int  # of the latest event that counts
    recorded_at: datetime  # when it was recorded, UTC
    jobs: dict[State, int]  # by state
    total: int
    line: LineView
    limits: Sequence[LimitView]  # the first ones by user and kind
    limits_total: int
    global_: WindowView = msgspec.field(name="global")
