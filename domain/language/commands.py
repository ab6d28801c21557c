"""Commands: what users, workers and the service itself ask for. Each may be refused.

A command is decided under the head lock. Whoever makes one has checked its values
(`domain.language.validation`); `decide` relies on that.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from domain.language.bodies import Body
from domain.language.callbacks import OVERLAP_SECONDS
from domain.language.events import (
    AfterFailure,
    EventLost,
    KeyCreated,
    Scope,
    SegmentArchived,
    SegmentRewritten,
    WindowUse,
)
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
from domain.language.schedules import CATCH_UP_SECONDS, Overlap, Timing


class Caller(Struct, frozen=True, gc=False):
    """The API key of a caller, and the secret by which it was recognized."""

    key: KeyName
    secret: SecretId


class _Command(Struct, frozen=True, gc=False):
    """Base of all commands. A command of a key that is not valid is refused."""

    by: Caller | None = None  # None: the service itself, or a caller without a key

    @property
    def key_name(self) -> KeyName | None:
        """The name of the caller's key."""
        return None if self.by is None else self.by.key


class SubmitJob(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Submit a job. Repeated with the same key, it changes nothing."""

    user_id: UserId
    kind: Kind
    payload: Body
    idempotency_key: str | None = None  # None: the digest of the content, see `key_of`
    deduplicate: bool | None = None  # without a key; None: `Policy.deduplicate`
    digest: str | None = None  # of the content as it was sent, if its times were changed since
    run_at: datetime | None = None  # UTC, earliest start; None or past: at once
    expires_at: datetime | None = None  # UTC, later than run_at: cancel if not begun; None: never
    timeout_seconds: float | None = None  # of one attempt; None: `Policy.timeout_seconds`
    max_attempts: int | None = None  # that may fail, from 1; None: `Policy.max_attempts`
    retry: RetryPolicy | None = None  # without `attempts`; None: the kind's, else `Policy.retry`
    priority: int = 0  # among the user's own jobs, -1000 to 1000; higher is sooner
    resources: tuple[ResourceName, ...] = ()  # that it uses: at most 3, in order, no two equal
    # The jobs that it comes after: at most AFTER_MAX, in order, no two equal.
    after: tuple[JobId, ...] = ()
    after_failure: AfterFailure = AfterFailure.FAIL  # if one of them fails or is cancelled
    schedule: ScheduleName | None = None  # that submits it; None: a caller does
    callback: str | None = None  # URL that is told its end, see `validation.callback_url`


class ReportRefusals(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Record submissions that a process refused by its refusal cache: one user, one window."""

    user_id: UserId
    scope: Scope  # whose limit was used up
    used: int  # submissions admitted in that window
    limit: int
    window_start: datetime  # UTC, inclusive
    window_seconds: int
    count: int  # submissions refused, from 1
    first_at: datetime  # UTC, by the process's estimate of the log's clock
    last_at: datetime  # likewise
    windows: tuple[WindowUse, ...] = ()  # `RateLimitDecided.windows`


CLAIM_PAYLOAD_BYTES_MAX: Final = 16 * 1024 * 1024  # of the payloads in one answer


class ClaimJobs(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Start up to `max_jobs` waiting jobs in fair order and lease them to a worker.

    The answer may have fewer jobs although more are waiting. At least one job is started; further
    ones only while all payloads together have at most `payload_bytes_max` bytes.
    """

    worker: WorkerId
    max_jobs: int  # 1 to 1000; 0: no new jobs, and record that the claim was answered empty
    kinds: tuple[Kind, ...] | None = None  # None: any
    server: ServerId | None = None  # that the worker is embedded in; None: it claims over HTTP
    claim_id: str | None = None  # repeated: the same jobs or fewer, see `domain.jobs.claims`
    may_wait: bool = False  # an empty answer is not final: the caller waits and claims again
    payload_bytes_max: int = CLAIM_PAYLOAD_BYTES_MAX
    # How many of the jobs the worker begins at once; it reports when it begins each other one.
    # None: all of them, and it reports none.
    begins: int | None = None
    delivers: bool = False  # only jobs that deliver callbacks; False: only others


class Progress(Struct, frozen=True, gc=False):
    """A handler's report of how far it is."""

    job_id: JobId
    attempt: int
    fraction: float  # 0 to 1
    message: Body | None = None  # JSON of a text; None: no message


class ExtendLeases(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """A worker's heartbeat: extend the leases of the attempts that it still runs."""

    worker: WorkerId
    jobs: Sequence[tuple[JobId, int]]  # (job, attempt)
    begun: tuple[tuple[JobId, int], ...] = ()  # those of `jobs` whose handlers have begun
    progress: tuple[Progress, ...] = ()  # of some of `jobs`, at most one of each


class CompleteJob(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Complete a job. The same outcome reported again changes nothing."""

    job_id: JobId
    attempt: int  # from the claim
    result: Body | None = None  # None: null


class FailJob(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Report that an attempt failed. The same outcome reported again changes nothing."""

    job_id: JobId
    attempt: int  # from the claim
    error: Body
    may_retry: bool = True  # False: a permanent failure, although attempts are left
    retry_in_seconds: float | None = None  # until the next attempt; None: `retry_delay`


class ReturnJob(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Queue a running job again because its worker stops. It does not count as a failure."""

    job_id: JobId
    attempt: int  # from the claim
    begun: bool | None = None  # its handler had begun; None: use what the log says
    worker: WorkerId | None = None  # refused unless this worker holds it; None: not checked
    suspect: bool = False  # it may have ended its process: run its next attempt alone


class CancelJob(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Cancel a job that has not ended. Cancelling a cancelled job changes nothing."""

    job_id: JobId


class RetryJob(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Queue a failed or cancelled job again, with as many attempts as it was submitted with.

    It counts against its user's rate limit as a submission does.
    """

    job_id: JobId


class EraseBodies(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Erase the bodies of a job that has ended, as a data protection law may require."""

    job_id: JobId
    attempt: int  # the latest; refused if a later one exists, which may have further bodies
    positions: tuple[int, ...]  # of all its bodies; refused if it has another by then


class EnforceDeadlines(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Enforce what is due of these jobs: the end of a lease, a time-out, a schedule or an expiry.

    With a job whose lease has ended come the other jobs of its worker: they decide whether the loss
    counts as a failure.
    """

    jobs: Sequence[JobId]


class UpdateLine(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Work out again which of these users' jobs may start, where limits or the time changed it."""

    users: Sequence[UserId]


class RecoverJobs(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Queue the jobs again that an embedded worker ran when its server process died."""

    server: ServerId
    jobs: Sequence[JobId]


class ChangeLimit(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Change the limits of one subject. UNSET keeps a limit, None restores its default."""

    scope: Scope
    user_id: UserId | None = None  # for Scope.USER and Scope.USER_KIND
    kind: Kind | None = None  # for Scope.KIND and Scope.USER_KIND
    resource: ResourceName | None = None  # for Scope.RESOURCE
    # For Scope.PLAN the plan to change or make; for Scope.USER the one that the user shall be on.
    plan: PlanName | UnsetType | None = UNSET
    # The fields of `LimitChanged` with the same names.
    limit: int | UnsetType | None = UNSET
    running: int | UnsetType | None = UNSET
    windows: tuple[Rate, ...] | UnsetType | None = UNSET
    throttle: Rate | UnsetType | None = UNSET
    weight: int | UnsetType | None = UNSET
    paused: bool | UnsetType | None = UNSET
    max_attempts: int | UnsetType | None = UNSET
    priority_max: int | UnsetType | None = UNSET
    retry: RetryPolicy | UnsetType | None = UNSET
    timeout_seconds: float | UnsetType | None = UNSET
    push: PushEndpoint | UnsetType | None = UNSET


class DeletePlan(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Delete a plan. Refused while a user is on it."""

    plan: PlanName


class AcceptClock(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Confirm that the database's clock is right: the log's time follows it again."""


class AcceptLoss(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Accept that the database has lost the end of the log. Refused if it ends elsewhere."""

    at: int  # position of the latest event that is there
    # The lost events, in the order of their positions: the first one stood at `at` + 1.
    lost: tuple[EventLost, ...]
    gives_numbers_again: bool = False  # though servers have reported more
    # Position of the latest event that was reported as lost, as the writer finds it.
    reported: int = 0


class CreateKey(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Create an API key. Its name is one that no key has had."""

    key: KeyCreated


class RotateKey(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Give an API key a new secret, and end the earlier ones after an overlap."""

    name: KeyName
    secret_id: SecretId
    secret_sha256: str  # hex
    overlap_seconds: float  # from 0


class RevokeKey(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Revoke an API key. Revoking a revoked one changes nothing."""

    name: KeyName


class ReportWrongKeys(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Record requests that a server refused because of their API keys."""

    count: int  # requests, from 1
    addresses: int  # that they came from, from 1
    first_at: datetime  # UTC, by the server's estimate of the log's clock
    last_at: datetime  # likewise


class SaveProjections(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Write the rows of the inline projections, so that a query sees all that was answered."""


class BeginArchive(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Close the jobs that had ended at a position of the log, before it is archived up to there."""

    last: int  # position of the last event to be archived
    recorded_at: datetime  # UTC, of that event; the event after it is later


class ArchiveSegments(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Declare that segments which follow those before them may be deleted from the database."""

    segments: tuple[SegmentArchived, ...]  # in order; the last one has the snapshot's digest


class EraseArchivedBodies(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Erase the bodies of a job that ended in the archived part of the log, and may have no row.

    Repeated, it records nothing. The bodies in segments are erased by the next step: see
    `RewriteSegment`.
    """

    job_id: JobId
    user_id: UserId
    kind: Kind
    positions: tuple[int, ...]  # of the bodies, rising; empty: they were erased before


class RewriteSegment(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Declare that a new file, which was read back, is the segment of its events from now on."""

    rewritten: SegmentRewritten


class CompleteArchive(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Record that what was archived is deleted."""

    last: int  # position of the last event that was archived


class TakeOutbox(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Submit rows of the outbox, and delete them in the transaction of their events."""

    users: tuple[UserId, ...]  # whose rows are taken, each user's oldest first
    rows_max: int  # from 1
    row_id: int | None = None  # take this row alone, if it is still there
    # Move that row to outbox_rejected with this sentence, since the database refuses its job.
    rejection: str | None = None


class SubmitRows(Struct, frozen=True, gc=False):
    """The rows that the writer has read for a TakeOutbox."""

    rows: Sequence[tuple[int, SubmitJob]] = ()  # (id, submission), in the order of the decisions
    invalid: Sequence[tuple[int, str]] = ()  # (id, reason) of rows that cannot be jobs
    is_locked: bool = False  # nothing was read, since another transaction holds one of the rows


class SetSchedule(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Make a schedule, or replace it. Equal to what is set, it changes nothing."""

    name: ScheduleName
    user_id: UserId
    kind: Kind
    payload: str  # canonical JSON, at most SCHEDULE_PAYLOAD_BYTES_MAX bytes
    timing: Timing
    overlap: Overlap = Overlap.SKIP
    catch_up_seconds: int = CATCH_UP_SECONDS  # from CATCH_UP_SECONDS_MIN
    paused: bool = False


class DeleteSchedule(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Delete a schedule."""

    name: ScheduleName


class TriggerSchedule(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Run a schedule now, by its overlap policy, whether it is paused or not."""

    name: ScheduleName


class BackfillSchedule(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Run each due time of a span of the past once, whatever came of it then."""

    name: ScheduleName
    from_at: datetime  # UTC, inclusive
    until_at: datetime  # UTC, exclusive, later than `from_at`


class FireSchedule(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Decide one run of a schedule that is due. If none is, nothing changes."""

    name: ScheduleName


class SetCallback(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Make an endpoint, or replace it. Equal to what is set, it changes nothing."""

    name: CallbackName  # not OF_SUBMISSIONS
    url: str
    kinds: tuple[Kind, ...] = ()  # sorted, no two equal; empty: any
    users: tuple[UserId, ...] = ()  # likewise


class DeleteCallback(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Delete an endpoint."""

    name: CallbackName


class RotateCallbackSecret(_Command, frozen=True, kw_only=True, gc=False, tag=True):
    """Give an endpoint, or the URLs of submissions, a new secret."""

    name: CallbackName
    overlap_seconds: float = OVERLAP_SECONDS  # while the earlier one signs too, from 0


JobCommand = CompleteJob | FailJob | ReturnJob | CancelJob | RetryJob | EraseBodies
ScheduleCommand = SetSchedule | DeleteSchedule | TriggerSchedule | BackfillSchedule | FireSchedule
CallbackCommand = SetCallback | DeleteCallback | RotateCallbackSecret
Command = (
    SubmitJob
    | ReportRefusals
    | ClaimJobs
    | ExtendLeases
    | JobCommand
    | EnforceDeadlines
    | UpdateLine
    | RecoverJobs
    | ChangeLimit
    | DeletePlan
    | AcceptClock
    | AcceptLoss
    | CreateKey
    | RotateKey
    | RevokeKey
    | ReportWrongKeys
    | SaveProjections
    | BeginArchive
    | ArchiveSegments
    | EraseArchivedBodies
    | RewriteSegment
    | CompleteArchive
    | TakeOutbox
    | ScheduleCommand
    | CallbackCommand
)
