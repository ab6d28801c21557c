"""Events. Type names and fields are stored for ever: add fields with a default, never rename one.

An event is self-contained: a fold needs nothing but the events before it. So each event of a job
repeats the user and the kind, and each one that puts a job into the line repeats its priority.
Payloads, results and errors of users are bodies, stored beside the log at the event's position; the
event has the SHA-256 and the size.

The tags are written out: the default is the class name, and a rename would orphan history.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

import msgspec
from msgspec import Struct

from domain.language.callbacks import Delivery
from domain.language.identifiers import (
    CallbackName,
    JobId,
    KeyName,
    Kind,
    PlanName,
    ResourceName,
    ScheduleName,
    SecretId,
    ServerId,
    UserId,
    WorkerId,
)
from domain.language.limits import PushEndpoint, Rate, RetryPolicy
from domain.language.moments import later
from domain.language.schedules import Overlap, RunCause, RunOutcome, Timing


class Scope(StrEnum):
    """The subject of a limit."""

    USER = "user"  # one user
    GLOBAL = "global"  # all users together
    KIND = "kind"  # a kind of job
    USER_KIND = "user_kind"  # one user's jobs of a kind
    PLAN = "plan"  # each user on the plan
    RESOURCE = "resource"  # the jobs that use a resource


class _StoredEvent(Struct, frozen=True, omit_defaults=True, gc=False, tag_field="type"):
    """Base of all events. Stored with the type name, without fields that have their default."""

    by: KeyName | None = None  # the API key of the caller; None: no caller, or one without a key


class WindowUse(Struct, frozen=True, gc=False, omit_defaults=True):
    """The use of one window when a submission was decided."""

    scope: Scope  # USER or GLOBAL
    limit: int  # submissions per window
    seconds: int  # length of the window
    used: int  # as `RateLimitDecided.used`
    is_default: bool = False  # the window of `Policy.window_seconds`, which everybody has

    @property
    def name(self) -> str:
        """The name in the header fields of answers."""
        return window_name(self.scope, None if self.is_default else self.seconds)


def window_name(scope: Scope, seconds: int | None) -> str:
    """Return the name of a window; `seconds` None: that of `Policy.window_seconds`."""
    return scope.value if seconds is None else f"{scope.value}-{seconds}s"


class RateLimitDecided(_StoredEvent, frozen=True, kw_only=True, tag="RateLimitDecided"):
    """One submission was admitted, or submissions of one user in one window were refused."""

    user_id: UserId
    scope: Scope  # whose limit refused; USER if allowed
    allowed: bool
    used: int  # submissions admitted in the window, with `count` if allowed
    limit: int  # submissions per window
    window_start: datetime  # UTC, inclusive; Unix time is a multiple of window_seconds
    window_seconds: int
    # Submissions decided: 1, more for merged refusals, or 0 for an allowed one that repeats a job
    # and uses nothing up (1 in logs of earlier releases).
    count: int = 1
    first_at: datetime | None = None  # UTC, of merged refusals; None: recorded_at
    last_at: datetime | None = None  # likewise
    global_used: int | None = None  # as `used`, of all users; if allowed, unless an old release
    global_limit: int | None = None  # as `limit`, of all users; likewise
    # The other windows: the further ones of the user and of all users, see `LimitChanged.windows`;
    # with a further one that refused, those of `Policy.window_seconds` too. If a window of all
    # users refused, only those of all users.
    windows: tuple[WindowUse, ...] = ()

    @property
    def is_by_further(self) -> bool:
        """True if a further window refused."""
        return any(one.is_default and one.scope is self.scope for one in self.windows)

    @property
    def window_name(self) -> str:
        """The name of the window that `limit` and `used` are about."""
        return window_name(self.scope, self.window_seconds if self.is_by_further else None)

    @property
    def resets_at(self) -> datetime:
        """End of the window, UTC, exclusive."""
        return later(self.window_start, self.window_seconds)


class AfterFailure(StrEnum):
    """The fate of a job if one that it comes after fails or is cancelled."""

    FAIL = "fail"  # it fails, too
    CANCEL = "cancel"  # it is cancelled
    RUN = "run"  # it runs all the same, once all of them have ended


class JobSubmitted(_StoredEvent, frozen=True, kw_only=True, tag="JobSubmitted"):
    """A job was submitted. Its id is the position of this event."""

    user_id: UserId
    kind: Kind
    payload_sha256: str  # hex, of the body at this position
    payload_bytes: int  # size of the body, canonical JSON
    max_attempts: int  # attempts that may fail, from 1
    idempotency_key: str  # explicit, or a hex digest of the content
    key_is_explicit: bool = False  # the client chose the key
    key_expires_at: datetime  # UTC, exclusive; an ended job loses its key then
    priority: int = 0  # among the user's own jobs; higher is sooner
    run_at: datetime | None = None  # UTC, earliest start; None: at once
    expires_at: datetime | None = None  # UTC; cancelled then unless it has begun; None: never
    timeout_seconds: float | None = None  # of one attempt, from its begin; None: no time-out
    # By `resolved_retry`, at the submission; None: the default.
    retry: RetryPolicy | None = None
    resources: tuple[ResourceName, ...] = ()  # that the job uses, sorted
    after: tuple[JobId, ...] = ()  # its parents: the jobs that it comes after, sorted
    after_ended: tuple[JobId, ...] = ()  # those of them that had ended; it waits for the others
    after_failure: AfterFailure | None = None  # None: it has no parents

    @property
    def waits_for(self) -> tuple[JobId, ...]:
        """The parents that had not ended."""
        return tuple(job_id for job_id in self.after if job_id not in self.after_ended)

    schedule: ScheduleName | None = None  # that submitted it; None: a caller did
    callback: str | None = None  # URL that is told its end; None: only endpoints are
    delivery: Delivery | None = None  # of a job that delivers a callback; None: any other job


class SubmissionDeduplicated(_StoredEvent, frozen=True, kw_only=True, tag="SubmissionDeduplicated"):
    """A submission repeated the key of an existing job, which is the event's job."""

    user_id: UserId
    kind: Kind
    idempotency_key: str
    key_is_explicit: bool = False


class ParentEnded(_StoredEvent, frozen=True, kw_only=True, tag="ParentEnded"):
    """A job that this one comes after has ended. What follows from it is an event of its own."""

    user_id: UserId
    kind: Kind
    parent: JobId
    state: Literal["done", "failed", "cancelled"]  # in which it ended


class JobReleased(_StoredEvent, frozen=True, kw_only=True, tag="JobReleased"):
    """A scheduled job became due, or the last of its parents ended: it joined its user's line."""

    user_id: UserId
    kind: Kind
    priority: int = 0
    resources: tuple[ResourceName, ...] = ()


class JobStarted(_StoredEvent, frozen=True, kw_only=True, tag="JobStarted"):
    """A worker claimed the job and holds it until the lease ends."""

    user_id: UserId
    kind: Kind
    attempt: int  # from 1, grows with each claim of the job: the fencing token
    worker: WorkerId
    lease_expires_at: datetime  # UTC, by the log's clock, exclusive
    server: ServerId | None = None  # that the worker is embedded in; None: it claimed over HTTP
    claim_id: str | None = None  # of the request, so that it can be repeated
    begun: bool = True  # the handler begins at once; False: an AttemptBegun says when
    alone: bool = False  # the job is suspect: the worker runs no other one meanwhile
    resources: tuple[ResourceName, ...] = ()


class AttemptBegun(_StoredEvent, frozen=True, kw_only=True, tag="AttemptBegun"):
    """The handler of an attempt that was claimed ahead began; the time-out counts from now."""

    user_id: UserId
    kind: Kind
    attempt: int


class LeasesExtended(_StoredEvent, frozen=True, kw_only=True, tag="LeasesExtended"):
    """A worker's heartbeat extended its leases, past half of a lease: one event for all jobs."""

    worker: WorkerId
    lease_expires_at: datetime  # UTC, by the log's clock, exclusive
    jobs: tuple[tuple[JobId, int], ...]  # (job, attempt)


class JobCompleted(_StoredEvent, frozen=True, kw_only=True, tag="JobCompleted"):
    """The job is done."""

    user_id: UserId
    kind: Kind
    attempt: int
    result_sha256: str | None = None  # hex, of the body at this position; None: the result is null
    result_bytes: int = 0  # size of the body
    resources: tuple[ResourceName, ...] = ()


class FailureReason(StrEnum):
    """The reason why an attempt failed."""

    ERROR = "error"  # the worker reported an error
    TIMED_OUT = "timed_out"  # it ran longer than timeout_seconds
    LEASE_LOST = "lease_lost"  # the lease of the last attempt ended without a heartbeat
    SERVER_RESTARTED = "server_restarted"  # the server process of the last attempt died
    PARENT_FAILED = "parent_failed"  # one of its parents failed or was cancelled: it did not run


class JobFailed(_StoredEvent, frozen=True, kw_only=True, tag="JobFailed"):
    """An attempt failed. Another one follows at `retry_at`; without it, the job has failed."""

    user_id: UserId
    kind: Kind
    attempt: int
    reason: FailureReason
    error_sha256: str | None = None  # hex, of the body at this position
    error_bytes: int = 0  # size of the body
    retry_at: datetime | None = None  # UTC
    # The delay that the worker asked for; None: `retry_at` follows from the job's retry policy.
    retry_in_seconds: float | None = None
    holds_place: bool = False  # the handler may still run: it counts as running until AttemptEnded
    resources: tuple[ResourceName, ...] = ()
    # That failed or was cancelled, so that the job failed without a run; None: an attempt failed.
    parent: JobId | None = None

    @property
    def ran(self) -> bool:
        """True if an attempt failed; False if the job failed with its parent, while it waited."""
        return self.parent is None


class RequeueReason(StrEnum):
    """The reason why a job was queued again."""

    LEASE_LOST = "lease_lost"  # the lease ended without a heartbeat
    SERVER_RESTARTED = "server_restarted"  # the server process that ran it died
    GIVEN_BACK = "given_back"  # its worker stops, see ReturnJob
    RETRIED = "retried"  # a failed or cancelled job, on request


class JobRequeued(_StoredEvent, frozen=True, kw_only=True, tag="JobRequeued"):
    """The job was queued again."""

    user_id: UserId
    kind: Kind
    attempt: int  # that ended; the next has a higher number
    reason: RequeueReason
    attempts_max: int  # number of the final attempt that may be made, see `Job.final_attempt`
    priority: int = 0
    was_cancelled: bool = False  # of a retried job: cancelled before; False: failed
    expires_at: datetime | None = None  # UTC, of a retried job; None: never
    begun: bool = False  # of a job that was given back: the handler had begun
    suspect: bool = False  # it may have killed its worker: its next attempt runs alone
    resources: tuple[ResourceName, ...] = ()
    waits: bool = False  # of a retried job: for parents that have not ended, and not in line


class CancelReason(StrEnum):
    """The reason why a job was cancelled."""

    REQUESTED = "requested"  # by a CancelJob
    EXPIRED = "expired"  # it had not begun by its expires_at
    PARENT_FAILED = "parent_failed"  # one of its parents failed or was cancelled


class JobCancelled(_StoredEvent, frozen=True, kw_only=True, tag="JobCancelled"):
    """The job was cancelled; it does not run, or its outcome does not count."""

    user_id: UserId
    kind: Kind
    was: Literal["queued", "scheduled", "running"]
    reason: CancelReason = CancelReason.REQUESTED
    # Of a running job: its attempt, which counts as running until AttemptEnded, and its worker.
    # Both None in old logs, where the attempt ended at once.
    attempt: int | None = None
    worker: WorkerId | None = None
    resources: tuple[ResourceName, ...] = ()
    parent: JobId | None = None  # that failed or was cancelled, for the reason PARENT_FAILED


class EndReason(StrEnum):
    """The evidence that a cancelled or timed out attempt has ended."""

    REPORTED = "reported"  # the worker reported an outcome
    LEASE_LOST = "lease_lost"  # the lease ended without a heartbeat


class AttemptEnded(_StoredEvent, frozen=True, kw_only=True, tag="AttemptEnded"):
    """A cancelled or timed out attempt has ended at its worker: it no longer counts as running."""

    user_id: UserId
    kind: Kind
    attempt: int
    reason: EndReason
    resources: tuple[ResourceName, ...] = ()


class WorkerMissed(_StoredEvent, frozen=True, kw_only=True, tag="WorkerMissed"):
    """Another lease of the worker that runs this attempt has ended, so the worker may be dead.

    A later heartbeat that names the attempt shows that it is not.
    """

    user_id: UserId
    kind: Kind
    attempt: int


class LimitChanged(_StoredEvent, frozen=True, kw_only=True, tag="LimitChanged"):
    """The limits of one subject were changed; the event has all of them."""

    scope: Scope
    user_id: UserId | None = None  # for Scope.USER and Scope.USER_KIND
    kind: Kind | None = None  # for Scope.KIND and Scope.USER_KIND
    resource: ResourceName | None = None  # for Scope.RESOURCE: a name, or a prefix and `*`
    # For Scope.PLAN the plan that was changed or made; for Scope.USER the one that the user is on.
    plan: PlanName | None = None
    # None is the default. For a user, that is what the plan says.
    limit: int | None = None  # submissions per window of `Policy.window_seconds`
    running: int | None = None  # jobs running at once; by default no cap
    windows: tuple[Rate, ...] | None = None  # further limits of submissions; all have to allow
    throttle: Rate | None = None  # starts; by default not limited
    weight: int | None = None  # share of the service in hundredths, 1 to 100,000; by default 100
    paused: bool | None = None  # no job starts; by default False
    max_attempts: int | None = None  # that a submission may ask for; by default any number
    priority_max: int | None = None  # highest that a submission may ask for; by default any
    retry: RetryPolicy | None = None  # of a kind's jobs that come without their own
    timeout_seconds: float | None = None  # likewise: of one attempt
    push: PushEndpoint | None = None  # of a kind: servers post its jobs there


class PlanDeleted(_StoredEvent, frozen=True, kw_only=True, tag="PlanDeleted"):
    """A plan that no user was on was deleted."""

    plan: PlanName


class LineUpdated(_StoredEvent, frozen=True, kw_only=True, tag="LineUpdated"):
    """The places of users in the line were worked out again, by their limits and the time.

    A window of a throttle that held them back has ended, or their plan was changed.
    """

    users: tuple[UserId, ...]


class BodiesErased(_StoredEvent, frozen=True, kw_only=True, tag="BodiesErased"):
    """The bodies of an ended job were erased for ever."""

    user_id: UserId
    kind: Kind
    positions: tuple[int, ...]  # of the bodies: payload, errors, result


class CorrectionReason(StrEnum):
    """The reason why the offset of the log's time was changed."""

    STEPPED = "stepped"  # the clock stepped; the log's time goes on evenly
    LOG_AHEAD = "log_ahead"  # the clock is behind the latest event; the log's time goes on from it
    CAUGHT_UP = "caught_up"  # the clock is past the latest event again; the offset is dropped
    ACCEPTED = "accepted"  # an AcceptClock confirmed the clock


class ClockCorrected(_StoredEvent, frozen=True, kw_only=True, tag="ClockCorrected"):
    """The log's time was set to the database's clock plus this offset."""

    reason: CorrectionReason
    clock: datetime  # UTC, the reading of the database's clock
    offset_micros: int  # the log's time less the clock's, in microseconds
    # Rate at which a positive offset shrinks to 0, in parts per million of the time that passes.
    # While it shrinks, times that users give are the clock's. 0: it does not shrink.
    slew_ppm: int = 0


class Role(StrEnum):
    """The role of an API key; `domain.access.rights` lists the rights of each."""

    SUBMITTER = "submitter"
    WORKER = "worker"
    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


class KeyCreated(_StoredEvent, frozen=True, kw_only=True, tag="KeyCreated"):
    """An API key was created. Role, users, kinds and bounds never change."""

    name: KeyName
    role: Role
    secret_id: SecretId  # the public part of the secret
    secret_sha256: str  # hex, of the whole secret
    users: tuple[UserId, ...] = ()  # whose jobs it may submit and see
    user_prefix: str | None = None  # likewise, all users whose ids start with it; None: no others
    any_user: bool = False  # all users
    kinds: tuple[Kind, ...] = ()  # of jobs that it may submit, see and claim; empty: any
    expires_at: datetime | None = None  # UTC, exclusive; None: never
    # Bounds of the jobs that a submitter may ask for; None: those of every request.
    priority_max: int | None = None
    attempts_max: int | None = None
    timeout_seconds_max: float | None = None  # a job without a time-out of its own gets this one
    changes_max: int | None = None  # cancellations and retries per window


class KeyRotated(_StoredEvent, frozen=True, kw_only=True, tag="KeyRotated"):
    """An API key got a new secret. The earlier ones end at `earlier_until`, or before."""

    name: KeyName
    secret_id: SecretId
    secret_sha256: str  # hex
    earlier_until: datetime  # UTC, exclusive


class KeyRevoked(_StoredEvent, frozen=True, kw_only=True, tag="KeyRevoked"):
    """An API key was revoked for ever."""

    name: KeyName


class WrongKeysRefused(_StoredEvent, frozen=True, kw_only=True, tag="WrongKeysRefused"):
    """One server refused requests because of their API keys, in about a minute."""

    count: int  # requests, from 1
    addresses: int  # that they came from, from 1; a lower bound if there were very many
    first_at: datetime  # UTC, by the server's estimate of the log's clock
    last_at: datetime  # likewise


class ProgressReported(_StoredEvent, frozen=True, kw_only=True, tag="ProgressReported"):
    """The handler of the running attempt reported how far it is; one event in some seconds."""

    user_id: UserId
    kind: Kind
    attempt: int
    fraction: float  # 0 to 1
    message_sha256: str | None = None  # hex, of the body at this position; None: no message
    message_bytes: int = 0  # size of the body


class ArchiveBegun(_StoredEvent, frozen=True, kw_only=True, tag="ArchiveBegun"):
    """The log up to a position is about to be archived: jobs that had ended by then stay as they
    are, and are not retried.
    """

    last: int  # position of the last event that will be archived
    recorded_at: datetime  # UTC, of that event; the event after it is later


class SegmentArchived(_StoredEvent, frozen=True, kw_only=True, tag="SegmentArchived"):
    """A part of the log is in a segment file, from which it was read back. From this event on, its
    rows may be deleted.
    """

    first: int  # position of its first event, which follows the segment before
    last: int  # position of its last event
    first_recorded_at: datetime  # UTC, of its first event
    last_recorded_at: datetime  # UTC, of its last event
    previous_hash: str  # hex, of the chain before its first event
    last_hash: str  # hex, of the chain at its last event
    roots: tuple[str, ...]  # hex, of the complete Merkle subtrees that its events consist of
    bodies: int  # number of bodies in it
    log_id: str  # hex, leaf hash of the first event of the log
    begun: int  # position of the `ArchiveBegun` of the archive that wrote it
    name: str  # of the file, within the archive
    size: int  # of the file, in bytes
    sha256: str  # hex, of the file
    # Hex, of the snapshot of the projections at `last`; None: only a later segment has one.
    snapshot_sha256: str | None = None


class SegmentRewritten(_StoredEvent, frozen=True, kw_only=True, tag="SegmentRewritten"):
    """A segment was written anew without bodies that were erased. The new file has the same events,
    and was read back; from this event on, the earlier file may be deleted.
    """

    first: int  # this and the next fields are the earlier file's: the events are the same
    last: int
    first_recorded_at: datetime  # UTC
    last_recorded_at: datetime  # UTC
    previous_hash: str  # hex
    last_hash: str  # hex
    roots: tuple[str, ...]  # hex
    log_id: str  # hex
    bodies: int  # number of bodies that are left in it
    name: str  # of the new file, within the archive
    size: int  # of the new file, in bytes
    sha256: str  # hex, of the new file
    replaces: str  # name of the earlier file
    # Position of an event: all bodies that were erased by events up to it are gone from the file.
    erasure: int


class ArchiveCompleted(_StoredEvent, frozen=True, kw_only=True, tag="ArchiveCompleted"):
    """The rows of the archived part of the log, and of the jobs that ended in it, are deleted."""

    last: int  # position of the last event that was archived


class ScheduleSet(_StoredEvent, frozen=True, kw_only=True, tag="ScheduleSet"):
    """A schedule was made or changed; the event has all of it.

    Due times are computed when they are recorded: a fold needs no time zones.
    """

    name: ScheduleName
    user_id: UserId  # whose jobs it submits
    kind: Kind
    payload: str  # canonical JSON, of each job
    timing: Timing
    overlap: Overlap
    catch_up_seconds: int  # a due time is missed when it is decided later than so much
    paused: bool = False  # no time is due; a resumed schedule goes on with the next one
    next_due_at: datetime | None = None  # UTC; None: it is paused
    fires_at: datetime | None = None  # UTC, when that time is decided; later by the jitter


class ScheduleDeleted(_StoredEvent, frozen=True, kw_only=True, tag="ScheduleDeleted"):
    """A schedule was deleted. Its jobs are left alone."""

    name: ScheduleName
    user_id: UserId
    kind: Kind


class ScheduleFired(_StoredEvent, frozen=True, kw_only=True, tag="ScheduleFired"):
    """A run of a schedule was decided, which moves the schedule on to the next one."""

    name: ScheduleName
    user_id: UserId
    kind: Kind
    cause: RunCause
    due_at: datetime  # UTC, the time that the run is for; of a trigger, that of the trigger
    outcome: RunOutcome
    job: JobId | None = None  # that was submitted
    reason: str | None = None  # why the submission was refused or has to wait
    # Of the schedule, the buffer or the backfill, as `cause` says; unchanged by a trigger.
    next_due_at: datetime | None = None  # UTC; of a deferred run its own time; None: nothing is due
    fires_at: datetime | None = None  # UTC, when that time is decided


class ScheduleBackfillBegun(_StoredEvent, frozen=True, kw_only=True, tag="ScheduleBackfillBegun"):
    """The due times of a span of the past shall be run, whatever came of them then."""

    name: ScheduleName
    user_id: UserId
    kind: Kind
    from_at: datetime  # UTC, inclusive
    until_at: datetime  # UTC, exclusive
    next_due_at: datetime  # UTC, the first one


class CallbackSet(_StoredEvent, frozen=True, kw_only=True, tag="CallbackSet"):
    """An endpoint was made or changed; the event has all of it but its secret, which is derived."""

    name: CallbackName
    url: str
    kinds: tuple[Kind, ...] = ()  # of the jobs whose ends it is told, sorted; empty: any
    users: tuple[UserId, ...] = ()  # likewise


class CallbackDeleted(_StoredEvent, frozen=True, kw_only=True, tag="CallbackDeleted"):
    """An endpoint was deleted. Deliveries to it that wait fail."""

    name: CallbackName


class CallbackSecretRotated(_StoredEvent, frozen=True, kw_only=True, tag="CallbackSecretRotated"):
    """An endpoint has another secret from now on."""

    name: CallbackName  # OF_SUBMISSIONS for the URLs of submissions
    version: int  # of the secret, from 2
    earlier_until: datetime  # UTC, exclusive: the one before signs until then, too


class EventLost(_StoredEvent, frozen=True, kw_only=True, tag="EventLost"):
    """Stands at the position of an event that was lost, so that no other event has its number.

    The fields are those of the lost event, as far as a server still knew them; None: not known.
    """

    lost_type: str | None = None
    user_id: UserId | None = None
    lost_job_id: JobId | None = None  # the job may be unknown now
    lost_at: datetime | None = None  # UTC, when it had been recorded


class LossAccepted(_StoredEvent, frozen=True, kw_only=True, tag="LossAccepted"):
    """An operator accepted that the database had lost the end of the log.

    The events `EventLost` stand at the positions between `at` and this one.
    """

    at: int  # position of the latest event that was not lost


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
    | KeyCreated
    | KeyRotated
    | KeyRevoked
    | WrongKeysRefused
    | ProgressReported
    | PlanDeleted
    | LineUpdated
    | ArchiveBegun
    | SegmentArchived
    | SegmentRewritten
    | ArchiveCompleted
    | ParentEnded
    | ScheduleSet
    | ScheduleDeleted
    | ScheduleFired
    | ScheduleBackfillBegun
    | CallbackSet
    | CallbackDeleted
    | CallbackSecretRotated
    | EventLost
    | LossAccepted
)

# The events that move a job in the line or out of it. Each has the user, the kind and resources.
JobMove = (
    JobSubmitted
    | JobReleased
    | JobStarted
    | JobCompleted
    | JobFailed
    | JobRequeued
    | JobCancelled
    | AttemptEnded
)

VERSION: Final = 1  # of every event type, except those with an upcaster
EVENT_TYPES: Final[Mapping[str, type[Event]]] = {
    str(cls.__struct_config__.tag): cls for cls in Event.__args__
}
_NAMES: Final[Mapping[type, str]] = {cls: name for name, cls in EVENT_TYPES.items()}

_encoder = msgspec.json.Encoder()


def named_body(event: Event) -> tuple[str, int] | None:
    """Return the SHA-256 in hex and the size in bytes of the body that the event names, or None.

    A body is stored at the position of the event that names it, and nowhere else.
    """
    match event:
        case JobSubmitted(payload_sha256=digest, payload_bytes=size):
            return digest, size
        case (
            JobCompleted(result_sha256=str(digest), result_bytes=size)
            | JobFailed(error_sha256=str(digest), error_bytes=size)
            | ProgressReported(message_sha256=str(digest), message_bytes=size)
        ):
            return digest, size
        case _:
            return None


def encode(event: Event) -> bytes:
    """Encode an event as compact JSON, with its type in the field `type`."""
    return _encoder.encode(event)


# Decode a stored event. Unknown fields are skipped, so that an older release reads a newer one's
# events. Raises `msgspec.ValidationError` for an unknown type or a missing field.
decode: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode


class _Caused(Struct):
    by: KeyName | None = None


_decode_caused: Final = msgspec.json.Decoder(_Caused).decode


def caused_by(data: bytes) -> KeyName | None:
    """Return the API key that caused a stored event; None: none did. Data of any shape is fine."""
    if b'"by":' not in data:
        return None
    try:
        return _decode_caused(data).by
    except msgspec.MsgspecError:
        return None


def type_of(event: Event) -> str:
    return _NAMES[type(event)]


def user_of(event: Event) -> bytes | None:
    """Return the user that an event is about, as the log's column `user_id` has it; None: none."""
    user: UserId | None = getattr(event, "user_id", None)
    return None if user is None else user.encode()


class Recorded(Struct, frozen=True, gc=False):
    """An event with its position in the log."""

    position: int  # from 1, without gaps
    recorded_at: datetime  # UTC, whole microseconds; not before the event before it
    job_id: JobId | None  # that the event is about; None: about no single job
    event: Event
