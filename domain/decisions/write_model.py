"""The state that a batch is decided against, and which rows of it the batch requires."""

from collections.abc import Collection, Iterable, Iterator
from typing import assert_never

from msgspec import Struct

from domain.access.keys import ApiKeys
from domain.callbacks.callbacks import Callbacks
from domain.fairness.known_line import KnownLine
from domain.fairness.line import Line
from domain.jobs.archive import ArchiveState
from domain.jobs.claims import claim_hash
from domain.jobs.known_jobs import Jobs
from domain.language.callbacks import CALLBACK_KIND, delivery_user
from domain.language.commands import (
    AcceptClock,
    AcceptLoss,
    ArchiveSegments,
    BackfillSchedule,
    BeginArchive,
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteArchive,
    CompleteJob,
    CreateKey,
    DeleteCallback,
    DeletePlan,
    DeleteSchedule,
    EnforceDeadlines,
    EraseArchivedBodies,
    EraseBodies,
    ExtendLeases,
    FailJob,
    FireSchedule,
    RecoverJobs,
    ReportRefusals,
    ReportWrongKeys,
    RetryJob,
    ReturnJob,
    RevokeKey,
    RewriteSegment,
    RotateCallbackSecret,
    RotateKey,
    SaveProjections,
    SetCallback,
    SetSchedule,
    SubmitJob,
    SubmitRows,
    TakeOutbox,
    TriggerSchedule,
    UpdateLine,
)
from domain.language.events import (
    ArchiveBegun,
    ArchiveCompleted,
    AttemptBegun,
    CallbackDeleted,
    CallbackSecretRotated,
    CallbackSet,
    ClockCorrected,
    EventLost,
    JobMove,
    JobSubmitted,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    LeasesExtended,
    LimitChanged,
    LineUpdated,
    LossAccepted,
    ParentEnded,
    PlanDeleted,
    ProgressReported,
    RateLimitDecided,
    Recorded,
    ScheduleBackfillBegun,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleSet,
    SegmentArchived,
    SegmentRewritten,
    WorkerMissed,
    WrongKeysRefused,
)
from domain.language.idempotency import is_deduplicated, key_hash, key_of
from domain.language.identifiers import (
    GLOBAL,
    ClaimHash,
    JobId,
    KeyHash,
    Kind,
    ResourceName,
    ScheduleName,
    UserId,
)
from domain.language.policy import Policy
from domain.limits.limits import LimitSettings, Subject, subject_of
from domain.limits.rate_limits import WindowKey, Windows
from domain.log.folds import folds_by_type
from domain.schedules.schedule import Schedules


class WriteModel:
    """The in-memory halves of the inline projections, the API keys, and the state of the archive.

    The writer decides with it, and a rebuild folds history into it. Time travel has a state of its
    own, with some of the same folds (`domain.audit.system_state`).
    """

    def __init__(self, known_line: KnownLine | None = None) -> None:
        """`known_line` is for claims to be decided by this model; None: none will be."""
        self.position = 0  # of the latest event folded in
        self.jobs = Jobs(watches_expiry=known_line is not None)
        self.limits = LimitSettings()
        self.line = Line(known_line, self.limits)
        self.windows = Windows()
        self.keys = ApiKeys()
        self.archive = ArchiveState()
        self.schedules = Schedules()
        self.callbacks = Callbacks()
        # In this order: the line needs the limits as they are with the event.
        self._folds = folds_by_type(
            (
                self.jobs,
                self.limits,
                self.line,
                self.windows,
                self.keys,
                self.archive,
                self.schedules,
                self.callbacks,
            )
        )

    def evolve(self, recorded: Recorded) -> None:
        """Fold one event in. Never raises: history is never refused."""
        event = recorded.event
        for fold in self._folds[type(event)]:
            fold(recorded, event)
        self.position = recorded.position


def submissions_in(events: Iterable[Recorded]) -> Iterator[JobSubmitted]:
    for recorded in events:
        event = recorded.event
        if type(event) is JobSubmitted:
            yield event


class RowKeys(Struct, frozen=True, kw_only=True):
    """Keys of rows, for example of those in memory; each field has keys of one sort."""

    users: Collection[UserId] = ()
    kinds: Collection[Kind] = ()
    resources: Collection[ResourceName] = ()
    jobs: Collection[JobId] = ()
    keys: Collection[KeyHash] = ()  # idempotency keys
    claims: Collection[ClaimHash] = ()
    windows: Collection[WindowKey] = ()
    starts: Collection[Subject] = ()  # of subjects with throttles
    schedules: Collection[ScheduleName] = ()


class RequiredRows(RowKeys, frozen=True, kw_only=True):
    """The rows that a batch of commands or events requires; projections add to it as they load."""

    users: set[UserId] = set()
    kinds: set[Kind] = set()
    resources: set[ResourceName] = set()
    jobs: set[JobId] = set()
    keys: set[KeyHash] = set()
    claims: set[ClaimHash] = set()
    windows: set[WindowKey] = set()
    starts: set[Subject] = set()  # of subjects whose limits change; others follow from the rest
    schedules: set[ScheduleName] = set()
    http_claims: set[ClaimHash] = set()  # of `claims`: those that may have been answered empty
    retries: dict[JobId, int] = {}  # jobs to retry: the length of their users' windows, in seconds
    runs: dict[ScheduleName, int] = {}  # schedules that may submit a job: likewise

    def add_commands(  # noqa: C901, PLR0912 (a case for each command)
        self, commands: Iterable[Command | SubmitRows], policy: Policy
    ) -> None:
        for command in commands:
            match command:
                case SubmitJob():
                    self._add_submission(command, policy)
                case ReportRefusals() as report:
                    self.windows.add((report.user_id, report.window_seconds))
                    self.windows.add((GLOBAL, report.window_seconds))
                case ClaimJobs(kinds=kinds) as claim:
                    self.kinds.update(kinds or ())
                    self._add_claim(claim)
                case ExtendLeases(jobs=jobs):
                    self.jobs.update(job_id for job_id, _ in jobs)
                case EnforceDeadlines(jobs=ids) | RecoverJobs(jobs=ids):
                    self.jobs.update(ids)
                case UpdateLine(users=users):
                    self.users.update(users)
                case SubmitRows(rows=rows):
                    self.add_commands((submission for _, submission in rows), policy)
                case (
                    AcceptClock()
                    | AcceptLoss()
                    | SaveProjections()
                    | TakeOutbox()
                    | DeletePlan()
                    | CreateKey()
                    | RotateKey()
                    | RevokeKey()
                    | ReportWrongKeys()
                    | BeginArchive()
                    | ArchiveSegments()
                    | RewriteSegment()
                    | CompleteArchive()
                ):
                    pass
                case SetCallback(url=url):
                    self.add_deliveries_to(url)
                case DeleteCallback() | RotateCallbackSecret():
                    pass
                case ChangeLimit() as change:
                    self._add_subject(change)
                case RetryJob(job_id=job_id):
                    self.jobs.add(job_id)
                    self.retries[job_id] = policy.window_seconds
                    self.windows.add((GLOBAL, policy.window_seconds))
                case (
                    CompleteJob()
                    | FailJob()
                    | ReturnJob()
                    | CancelJob()
                    | EraseBodies()
                    | EraseArchivedBodies()
                ):
                    self.jobs.add(command.job_id)
                case (
                    SetSchedule(name=name) | DeleteSchedule(name=name) | BackfillSchedule(name=name)
                ):
                    self.schedules.add(name)
                case FireSchedule(name=name) | TriggerSchedule(name=name):
                    self.schedules.add(name)
                    self.runs[name] = policy.window_seconds
                    self.windows.add((GLOBAL, policy.window_seconds))
                case _:
                    assert_never(command)

    def add_events(self, events: Iterable[Recorded]) -> None:  # noqa: PLR0912 (a case for each event)
        """Add the rows that folding these events changes, without idempotency keys: see
        `add_keys`.
        """
        for recorded in events:
            event = recorded.event
            if recorded.job_id is not None:
                self.jobs.add(recorded.job_id)
            match event:
                case RateLimitDecided():
                    self.windows.add((event.user_id, event.window_seconds))
                    self.windows.add((GLOBAL, event.window_seconds))
                case LeasesExtended():
                    self.jobs.update(job_id for job_id, _ in event.jobs)
                case LimitChanged():
                    self._add_subject(event)
                case (
                    ClockCorrected()
                    | EventLost()
                    | LossAccepted()
                    | PlanDeleted()
                    | AttemptBegun()
                    | ProgressReported()
                    | WorkerMissed()
                    | KeyCreated()
                    | KeyRotated()
                    | KeyRevoked()
                    | WrongKeysRefused()
                    | ArchiveBegun()
                    | SegmentArchived()
                    | SegmentRewritten()
                    | ArchiveCompleted()
                ):
                    pass
                case CallbackSet(url=url):
                    self.add_deliveries_to(url)
                case CallbackDeleted() | CallbackSecretRotated():
                    pass
                case LineUpdated():
                    self.users.update(event.users)
                case ParentEnded():
                    self.jobs.add(event.parent)
                case ScheduleSet() | ScheduleDeleted() | ScheduleFired() | ScheduleBackfillBegun():
                    self.schedules.add(event.name)
                    if isinstance(event, ScheduleFired) and event.job is not None:
                        self.jobs.add(event.job)
                case _:
                    self.users.add(event.user_id)
                    self.kinds.add(event.kind)
                    if isinstance(event, JobMove):
                        self.resources.update(event.resources)
                    if isinstance(event, JobSubmitted):
                        self._add_submitted(event)

    def _add_submitted(self, event: JobSubmitted) -> None:
        if event.after:
            self.jobs.update(event.waits_for)
        if event.schedule is not None:
            self.schedules.add(event.schedule)
        if event.callback is not None:
            self.add_deliveries_to(event.callback)
        if event.delivery is not None:
            self.jobs.add(event.delivery.job)

    def add_deliveries_to(self, url: str) -> None:
        """Add what a delivery to a URL changes, which any batch may submit."""
        self.users.add(delivery_user(url))
        self.kinds.add(CALLBACK_KIND)

    def add_keys(self, submissions: Iterable[JobSubmitted]) -> None:
        """Add the idempotency keys of submissions, whose former holders lose them."""
        self.keys.update(
            key_hash(event.user_id, event.idempotency_key, is_explicit=event.key_is_explicit)
            for event in submissions
        )

    def add(self, other: "RequiredRows") -> None:
        """Add the fields of `RowKeys` of another one."""
        self.users.update(other.users)
        self.kinds.update(other.kinds)
        self.resources.update(other.resources)
        self.jobs.update(other.jobs)
        self.keys.update(other.keys)
        self.claims.update(other.claims)
        self.windows.update(other.windows)
        self.starts.update(other.starts)
        self.schedules.update(other.schedules)

    def without(self, known: RowKeys) -> "RequiredRows":
        """Return the rows that are not known yet.

        Claims read the notes of empty claims every time, since another server may have changed
        them and the log does not record that.
        """
        return RequiredRows(
            users=self.users.difference(known.users),
            kinds=self.kinds.difference(known.kinds),
            resources=self.resources.difference(known.resources),
            jobs=self.jobs.difference(known.jobs),
            keys=self.keys.difference(known.keys),
            claims=self.claims.difference(known.claims),
            windows=self.windows.difference(known.windows),
            starts=self.starts.difference(known.starts),
            schedules=self.schedules.difference(known.schedules),
            http_claims=self.http_claims,
            retries=self.retries,
            runs=self.runs,
        )

    def size(self) -> int:
        """Return the number of row keys."""
        return (
            len(self.users)
            + len(self.kinds)
            + len(self.resources)
            + len(self.jobs)
            + len(self.keys)
            + len(self.claims)
            + len(self.windows)
            + len(self.starts)
            + len(self.schedules)
        )

    def _add_submission(self, command: SubmitJob, policy: Policy) -> None:
        user_id = command.user_id
        self.users.add(user_id)
        self.kinds.add(command.kind)
        self.resources.update(command.resources)
        self.jobs.update(command.after)
        if command.callback is not None:
            self.add_deliveries_to(command.callback)
        self.windows.add((user_id, policy.window_seconds))
        self.windows.add((GLOBAL, policy.window_seconds))
        if is_deduplicated(command, policy):
            key, is_explicit = key_of(command)
            self.keys.add(key_hash(user_id, key, is_explicit=is_explicit))

    def _add_claim(self, claim: ClaimJobs) -> None:
        if claim.claim_id is not None:
            named = claim_hash(claim.worker, claim.claim_id, claim.key_name)
            self.claims.add(named)
            if claim.server is None:
                self.http_claims.add(named)

    def _add_subject(self, changed: LimitChanged | ChangeLimit) -> None:
        subject = subject_of(changed)
        self.users.add(subject.user_id)
        if subject.kind:
            self.kinds.add(subject.kind)
        self.starts.add(subject)
