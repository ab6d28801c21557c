"""The state that a batch is decided against: as much of it as its commands need."""

from collections.abc import Iterable
from typing import Any

from domain.fairness.line import Lane, Line, Unread
from domain.jobs.claims import claim_hash
from domain.jobs.known_jobs import Jobs
from domain.language.commands import (
    AcceptClock,
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    EnforceDeadlines,
    EraseBodies,
    ExtendLeases,
    FailJob,
    RecoverJobs,
    ReportRefusals,
    RetryJob,
    ReturnJob,
    SubmitJob,
)
from domain.language.events import (
    EVENT_TYPES,
    AttemptBegun,
    ClockCorrected,
    LeasesExtended,
    LimitChanged,
    RateLimitDecided,
    Recorded,
    WorkerMissed,
)
from domain.language.idempotency import key_hash, key_of
from domain.language.identifiers import GLOBAL, JobId, Kind, UserId
from domain.language.policy import Policy
from domain.limits.rate_limits import WindowKey, Windows
from domain.log.folds import Fold


class WriteModel:
    """Three parts, each the in-memory half of a projection: the same folds serve the writer's
    decisions, a rebuild and time travel.
    """

    def __init__(self, *, is_served: bool = True) -> None:
        """`is_served`: see `Line`."""
        self.position = 0  # of the latest event folded in
        self.jobs = Jobs()
        self.line = Line(is_served=is_served)
        self.windows = Windows()
        of_parts = [part.folds() for part in (self.jobs, self.line, self.windows)]
        self._folds: dict[type, tuple[Fold, ...]] = {
            event_type: tuple(folds[event_type] for folds in of_parts if event_type in folds)
            for event_type in EVENT_TYPES.values()
        }

    def evolve(self, recorded: Recorded) -> None:
        """Fold one fact in. Total: history is never refused."""
        event = recorded.event
        for fold in self._folds[type(event)]:
            fold(recorded, event)
        self.position = recorded.position


class RequiredRows:
    """Which rows a batch of commands or events is about; what is loaded may add to it."""

    def __init__(self) -> None:
        self.users: set[UserId] = set()
        self.kinds: set[Kind] = set()
        self.jobs: set[JobId] = set()
        self.keys: set[bytes] = set()  # key_hash
        self.claims: set[bytes] = set()  # claim_hash
        self.claims_over_http: set[bytes] = set()  # those of them that may have been given nothing
        self.windows: set[WindowKey] = set()
        self.limited_kinds: set[Kind] = set()  # whose own limits a command changes
        self.retries: dict[JobId, int] = {}  # to start again: the length of their users' windows
        self.serving: dict[tuple[Kind, ...] | None, int] = {}  # kinds (None: any): jobs claimed
        self.lanes: dict[Lane, int] = {}  # how many of the first jobs of each
        self.unread: Unread | None = None  # what more of the line claims turned out to need

    def add_commands(self, commands: Iterable[Command], policy: Policy) -> None:
        for command in commands:
            match command:
                case SubmitJob(user_id=user_id, kind=kind):
                    self.users.add(user_id)
                    self.kinds.add(kind)
                    key, is_explicit = key_of(command)
                    self.keys.add(key_hash(user_id, key, is_explicit=is_explicit))
                    self.windows.add((user_id, policy.window_seconds))
                    self.windows.add((GLOBAL, policy.window_seconds))
                case ReportRefusals() as report:
                    self.windows.add((report.user_id, report.window_seconds))
                    self.windows.add((GLOBAL, report.window_seconds))
                case ClaimJobs(kinds=kinds, max_jobs=jobs_max) as claim:
                    if jobs_max:
                        self.serving[kinds] = self.serving.get(kinds, 0) + jobs_max
                    self._add_claim(claim)
                case ExtendLeases(jobs=jobs):
                    self.jobs.update(job_id for job_id, _ in jobs)
                case EnforceDeadlines(jobs=ids) | RecoverJobs(jobs=ids):
                    self.jobs.update(ids)
                case AcceptClock():
                    pass
                case ChangeLimit(user_id=changed_user, kind=changed_kind):
                    self._add_subject(changed_user, changed_kind)
                    if changed_kind is not None:
                        self.limited_kinds.add(changed_kind)
                case RetryJob(job_id=job_id):
                    self.jobs.add(job_id)
                    self.retries[job_id] = policy.window_seconds
                    self.windows.add((GLOBAL, policy.window_seconds))
                case CompleteJob() | FailJob() | ReturnJob() | CancelJob() | EraseBodies():
                    self.jobs.add(command.job_id)

    def add_events(self, events: Iterable[Recorded]) -> None:
        """What folding these events touches, but for keys: whether one can be there, whoever folds
        knows better.
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
                    self._add_subject(event.user_id, event.kind)
                case ClockCorrected() | AttemptBegun() | WorkerMissed():
                    pass
                case _:
                    self.users.add(event.user_id)
                    self.kinds.add(event.kind)

    def add(self, other: "RequiredRows") -> None:
        """Everything that another one needs, but for what claims will look for."""
        for mine, theirs in zip(self.sets(), other.sets(), strict=True):
            mine.update(theirs)

    def without(self, known: "RequiredRows") -> "RequiredRows":
        """What is not known yet. Claims look anew each time at the line, and at what was answered
        with nothing: another server may have done that since, and the log does not tell.
        """
        missing = RequiredRows()
        for mine, all_of_it, theirs in zip(missing.sets(), self.sets(), known.sets(), strict=True):
            mine.update(all_of_it - theirs)
        missing.serving, missing.lanes = self.serving, self.lanes
        missing.retries, missing.claims_over_http = self.retries, self.claims_over_http
        return missing

    def size(self) -> int:
        return sum(len(rows) for rows in self.sets())

    def sets(self) -> tuple[set[Any], ...]:
        """All of them, in one fixed order."""
        return (
            self.users,
            self.kinds,
            self.jobs,
            self.keys,
            self.claims,
            self.windows,
            self.limited_kinds,
        )

    def _add_claim(self, claim: ClaimJobs) -> None:
        if claim.claim_id is not None:
            named = claim_hash(claim.worker, claim.claim_id)
            self.claims.add(named)
            if claim.server is None:
                self.claims_over_http.add(named)

    def _add_subject(self, user_id: UserId | None, kind: Kind | None) -> None:
        self.users.add(user_id or GLOBAL)
        if kind is not None:
            self.kinds.add(kind)
