"""Facts. Type names and fields are stored for ever: add with a default, never rename.

An event is self-contained: a fold needs nothing but the events before it. So each event of a job
repeats the user and the kind, and each one that puts a job into the line repeats its priority.
What users put in (payloads, results, errors) is in the body at the event's position; the event has
its SHA-256 and its size.

The tags are written out: the default would be the class name, and a rename would orphan history.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

import msgspec
from msgspec import Struct

from domain.language.identifiers import JobId, Kind, ServerId, UserId, WorkerId
from domain.language.moments import later


class Scope(StrEnum):
    """Whose limit a decision or a change is about."""

    USER = "user"
    GLOBAL = "global"
    KIND = "kind"


class _StoredEvent(Struct, frozen=True, omit_defaults=True, gc=False, tag_field="type"):
    """How each event is stored: its type by name, and no field that has its default."""


class RateLimitDecided(_StoredEvent, frozen=True, kw_only=True, tag="RateLimitDecided"):
    """Submissions were let in or refused. With `allowed`, `used` includes this submission."""

    user_id: UserId
    scope: Scope  # whose limit refused; of an allowed submission always the user's
    allowed: bool
    used: int  # admitted in the window, this decision included
    limit: int  # that `used` was held against
    window_start: datetime  # UTC, a multiple of window_seconds since the epoch; inclusive
    window_seconds: int
    count: int = 1  # submissions that this event decides; above 1 for refusals put together
    first_at: datetime | None = None  # UTC; of the refusals put together, None for a single one
    last_at: datetime | None = None
    global_used: int | None = None  # the global window of an allowed submission, this one included
    global_limit: int | None = None

    @property
    def resets_at(self) -> datetime:
        """UTC; the exclusive end of the window that was decided about."""
        return later(self.window_start, self.window_seconds)


class JobSubmitted(_StoredEvent, frozen=True, kw_only=True, tag="JobSubmitted"):
    """A job exists from here on; its id is this event's position."""

    user_id: UserId
    kind: Kind
    payload_sha256: str  # hex; the canonical JSON is the body at this position
    payload_bytes: int
    max_attempts: int
    idempotency_key: str  # explicit, or the hex digest of kind and payload
    key_is_explicit: bool = False
    key_expires_at: datetime  # UTC, exclusive: from then on, once it ended, the key means a new job
    priority: int = 0  # within the user's own line; higher is sooner
    run_at: datetime | None = None  # UTC; not served earlier
    expires_at: datetime | None = None  # UTC; not started by then, not run at all
    timeout_seconds: float | None = None  # longest run of one attempt


class SubmissionDeduplicated(_StoredEvent, frozen=True, kw_only=True, tag="SubmissionDeduplicated"):
    """A submission was recognised by its key; the event's job is the first one."""

    user_id: UserId
    kind: Kind
    idempotency_key: str
    key_is_explicit: bool = False


class JobReleased(_StoredEvent, frozen=True, kw_only=True, tag="JobReleased"):
    """A scheduled job became due and joined its user's line."""

    user_id: UserId
    kind: Kind
    priority: int = 0


class JobStarted(_StoredEvent, frozen=True, kw_only=True, tag="JobStarted"):
    """A worker has the job until the lease ends."""

    user_id: UserId
    kind: Kind
    attempt: int  # from 1, only ever grows; the fencing token
    worker: WorkerId
    lease_expires_at: datetime  # UTC, by the log's clock
    server: ServerId | None = None  # the process that runs it inside itself, None over HTTP
    claim_id: str | None = None  # of the request; asked again it gives the same jobs or fewer
    begun: bool = True  # its handler begins with the claim; False: AttemptBegun says when
    alone: bool = False  # a suspect: the worker runs nothing beside it


class AttemptBegun(_StoredEvent, frozen=True, kw_only=True, tag="AttemptBegun"):
    """The handler of an attempt that had been claimed ahead of time began: its time-out counts
    from here.
    """

    user_id: UserId
    kind: Kind
    attempt: int


class LeasesExtended(_StoredEvent, frozen=True, kw_only=True, tag="LeasesExtended"):
    """A worker's heartbeat that mattered: one event for all of its jobs."""

    worker: WorkerId
    lease_expires_at: datetime  # UTC, by the log's clock
    jobs: tuple[tuple[JobId, int], ...]  # (job, attempt)


class JobCompleted(_StoredEvent, frozen=True, kw_only=True, tag="JobCompleted"):
    user_id: UserId
    kind: Kind
    attempt: int
    result_sha256: str | None = None  # hex, of the body at this position; None for null
    result_bytes: int = 0


class FailureReason(StrEnum):
    ERROR = "error"  # the handler raised, or the worker reported it
    TIMED_OUT = "timed_out"  # ran longer than its timeout_seconds
    LEASE_LOST = "lease_lost"  # its worker was not heard of, on the last attempt
    SERVER_RESTARTED = "server_restarted"  # the process that ran it died, on the last attempt


class JobFailed(_StoredEvent, frozen=True, kw_only=True, tag="JobFailed"):
    """An attempt failed. With `retry_at` another follows; without, the job has failed."""

    user_id: UserId
    kind: Kind
    attempt: int
    reason: FailureReason
    error_sha256: str | None = None  # hex, of the body at this position
    error_bytes: int = 0
    retry_at: datetime | None = None  # UTC
    holds_place: bool = False  # its handler may still run: its place is free from AttemptEnded on


class RequeueReason(StrEnum):
    LEASE_LOST = "lease_lost"
    SERVER_RESTARTED = "server_restarted"  # the process that ran it is certainly dead
    GIVEN_BACK = "given_back"  # by its worker, which stops
    RETRIED = "retried"  # asked for, of a failed or cancelled job


class JobRequeued(_StoredEvent, frozen=True, kw_only=True, tag="JobRequeued"):
    """The job is waiting again. `attempt` is the one that ended; the next has a higher number."""

    user_id: UserId
    kind: Kind
    attempt: int
    reason: RequeueReason
    attempts_max: int  # the last attempt that may be made from now on
    priority: int = 0
    was_cancelled: bool = False  # of a retried job: it was cancelled, else it had failed
    expires_at: datetime | None = None  # UTC; of a retried job, from now on. None: never
    begun: bool = False  # of a job that was given back: its handler had begun
    suspect: bool = False  # it may have killed its worker: its next attempt is made alone


class CancelReason(StrEnum):
    REQUESTED = "requested"
    EXPIRED = "expired"  # not started by its expires_at


class JobCancelled(_StoredEvent, frozen=True, kw_only=True, tag="JobCancelled"):
    user_id: UserId
    kind: Kind
    was: Literal["queued", "scheduled", "running"]
    reason: CancelReason = CancelReason.REQUESTED
    # Of a running job: the attempt, whose place is free from AttemptEnded on, and whose worker has
    # to be told. Older logs have neither; there the place was free at once.
    attempt: int | None = None
    worker: WorkerId | None = None


class EndReason(StrEnum):
    REPORTED = "reported"  # its worker said so
    LEASE_LOST = "lease_lost"  # its worker was not heard of


class AttemptEnded(_StoredEvent, frozen=True, kw_only=True, tag="AttemptEnded"):
    """An attempt that was cancelled or timed out has ended at its worker too; its place is free."""

    user_id: UserId
    kind: Kind
    attempt: int
    reason: EndReason


class WorkerMissed(_StoredEvent, frozen=True, kw_only=True, tag="WorkerMissed"):
    """The worker of a running attempt let the lease of another one end: it may have died with both.

    A heartbeat that names the attempt says that it has not.
    """

    user_id: UserId
    kind: Kind
    attempt: int


class LimitChanged(_StoredEvent, frozen=True, kw_only=True, tag="LimitChanged"):
    """All limits of one subject, as they are from now on."""

    scope: Scope
    user_id: UserId | None = None  # for the scope of a user
    kind: Kind | None = None  # for the scope of a kind
    limit: int | None = None  # submissions a window; None: the default
    running: int | None = None  # jobs running at once; None: no cap


class BodiesErased(_StoredEvent, frozen=True, kw_only=True, tag="BodiesErased"):
    """What users had put into an ended job is gone for good; this event's job is that one."""

    user_id: UserId
    kind: Kind
    positions: tuple[int, ...]  # where the bodies were: its payload, its errors, its result


class CorrectionReason(StrEnum):
    STEPPED = "stepped"  # the clock stepped, and the log's time goes on evenly
    LOG_AHEAD = "log_ahead"  # the log is later than the clock, and its time goes on from there
    CAUGHT_UP = "caught_up"  # the clock is past the log, which was ahead of it
    ACCEPTED = "accepted"  # somebody said that the clock is right


class ClockCorrected(_StoredEvent, frozen=True, kw_only=True, tag="ClockCorrected"):
    """From here on the log's time is the database's clock and this offset."""

    reason: CorrectionReason
    clock: datetime  # UTC; what the database's clock showed
    offset_micros: int  # the log's time less the clock's
    # By how many parts in a million of the time that passes a positive offset shrinks, to nothing;
    # while it does, times that users give are the clock's. 0: it stays.
    slew_ppm: int = 0


Event = (
    RateLimitDecided
    | JobSubmitted
    | SubmissionDeduplicated
    | JobReleased
    | JobStarted
    | LeasesExtended
    | JobCompleted
    | JobFailed
    | JobRequeued
    | JobCancelled
    | LimitChanged
    | BodiesErased
    | ClockCorrected
    | AttemptBegun
    | AttemptEnded
    | WorkerMissed
)

VERSION: Final = 1  # of every event's shape so far; upcasters read older ones
EVENT_TYPES: Final[Mapping[str, type[Event]]] = {
    str(cls.__struct_config__.tag): cls for cls in Event.__args__
}
_NAMES: Final[Mapping[type, str]] = {cls: name for name, cls in EVENT_TYPES.items()}

_encoder = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """The event as compact JSON, its type as the tag."""
    return _encoder.encode(event)


# Reads a stored event; unknown fields are skipped: an older reader survives a newer writer.
# Raises `msgspec.ValidationError` for an unknown type or a missing field.
decode: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode


def type_of(event: Event) -> str:
    return _NAMES[type(event)]


class Recorded(Struct, frozen=True, gc=False):
    """An event in its place in the log."""

    position: int  # from 1, without gaps
    recorded_at: datetime  # UTC, microseconds; never going back
    job_id: JobId | None
    event: Event
