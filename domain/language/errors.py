"""The tree of errors. `entrypoints/http/problems.py` maps them to HTTP.

FairlogError
├── Refusal                        a rule said no; the log may still have recorded the decision
│   ├── RateLimited
│   ├── KeyReusedWithOtherPayload
│   ├── TooManyKinds
│   ├── TooManyQueues
│   ├── UnknownParent              a job that the submitted one should come after
│   ├── EntryRefused               an entry of the batch that another one should come after
│   ├── UnknownJob
│   │   ├── JobArchived            the job ended in the archived part of the log
│   │   └── JobLost                the event that had its number was lost
│   ├── ArchiveConflict            another archive was quicker
│   ├── SegmentConflict            another process has replaced the segment's file
│   ├── LossElsewhere              the log ends at another event than the operator saw
│   ├── MoreLost                   more events were reported as lost meanwhile
│   ├── TooManyLost
│   ├── NotTheCurrentAttempt
│   │   ├── LeaseHasEnded
│   │   └── TimeWasUp
│   ├── HeldByAnother
│   ├── ReturnedTooOften
│   ├── JobHasEnded
│   ├── JobHasNotEnded
│   ├── JobWasErased
│   ├── BodiesAreNeeded
│   ├── JobHasMovedOn
│   ├── KeyNotValid                the caller's API key is unknown, revoked or expired
│   ├── NotAllowed                 the caller's API key may not do this
│   │   ├── MissingRight
│   │   ├── NotForUser
│   │   ├── NotForKind
│   │   └── BeyondBounds
│   ├── KeyExists
│   ├── UnknownKey
│   ├── KeyHasEnded
│   ├── TooManyKeys
│   ├── TooManySecrets
│   ├── UnknownPlan
│   ├── PlanInUse
│   ├── BeyondLimits
│   └── TooManyLimits
├── InvalidInput                   a command that no state could accept
├── LogUnavailable                 the database did not answer; the outcome may be unknown
│   ├── LogFileReplaced            the open file is not the one at its path any more
│   ├── BodyMissing                an event's body is missing, or not replicated yet
│   ├── EventsLost                 the database lacks events that were known
│   ├── LogIsBehind                the server that was read ends before what was answered
│   └── ClockInDoubt               the database's clock stepped; it is read a second time
├── QueueFull                      too many requests are waiting
├── EventsArchived                 what was asked for is in the archived part of the log
├── LogTooNew                      the log or a projection was written by a newer release
├── LogCorrupt                     the log cannot have been written so
├── ArchiveUnavailable             the archive's directory or store cannot be read or written
├── SegmentUnusable                a file of the archive is missing, damaged or another log's
└── WriteFailed                    the database refused this one command
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from domain.language.events import RateLimitDecided, Scope
from domain.language.identifiers import (
    CallbackName,
    JobId,
    KeyName,
    Kind,
    PlanName,
    ScheduleName,
    UserId,
)


class FairlogError(Exception):
    """Base class of all errors. The message is a sentence for the user."""

    nothing_was_recorded = False  # True if the command certainly left nothing in the log


E = TypeVar("E", bound=BaseException)


def without_traceback(error: E) -> E:
    """Return the error itself after dropping its traceback, to be kept as a value.

    The frames of a traceback keep their variables alive. If one of these is the error itself or a
    future with it, the cycle stays in memory until the garbage collector runs: with each refusal,
    its payload.
    """
    return error.with_traceback(None)


def fresh_copy(error: Exception) -> Exception:
    """Return a copy to be raised of an error that is also kept as a value.

    Raising the kept one would give it a traceback again, see `without_traceback`. An error of
    another library is not copied.
    """
    if not isinstance(error, FairlogError):
        return without_traceback(error)
    copy = _restored(type(error), error.args, error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


def _restored(
    cls: type[FairlogError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> FairlogError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class Refusal(FairlogError):
    """A rule refused the command. The other commands of its batch are not affected."""

    decision: RateLimitDecided | None = None  # about the same submission
    decided_at: datetime | None = None  # UTC, by the log's clock


class RateLimited(Refusal):
    """The window of the user, or of all users together, is used up.

    `user_id` is the submission's user. `decision.user_id` may be another one if the global limit
    refused, since that decision is cached for all users.
    """

    decision: RateLimitDecided
    decided_at: datetime

    def __init__(
        self, decision: RateLimitDecided, decided_at: datetime, user_id: UserId | None = None
    ) -> None:
        super().__init__()
        self.decision = decision
        self.decided_at = decided_at
        self.user_id = decision.user_id if user_id is None else user_id

    @property
    def scope(self) -> Scope:
        return self.decision.scope

    @property
    def used(self) -> int:
        return self.decision.used

    @property
    def limit(self) -> int:
        return self.decision.limit

    @property
    def window_seconds(self) -> int:
        return self.decision.window_seconds

    @property
    def resets_at(self) -> datetime:
        return self.decision.resets_at

    def __str__(self) -> str:  # formatted only when it is read: most refusals never are
        whose = f"user {self.user_id!r}" if self.scope is Scope.USER else "all users together"
        return (
            f"The limit of {self.limit} submissions in {self.window_seconds} s for "
            f"{whose} is used up; try again after {self.resets_at:%Y-%m-%dT%H:%M:%SZ}."
        )


class KeyReusedWithOtherPayload(Refusal):
    """The idempotency key belongs to a job of another kind or payload."""

    def __init__(self, key: str, job_id: JobId | None) -> None:
        """`job_id` is None if the caller may not see the job."""
        job = "a job" if job_id is None else f"job {job_id}"
        super().__init__(
            f"The idempotency key {key!r} already belongs to {job}, with another kind or payload; "
            "use a new key for a new job."
        )
        self.job_id = job_id


class TooManyKinds(Refusal):
    """The user has waiting jobs of `Policy.kinds_waiting_max` kinds already."""

    def __init__(self, user_id: UserId, kinds_max: int) -> None:
        super().__init__(
            f"User {user_id!r} already has jobs of {kinds_max} kinds waiting; submit this kind "
            f"when one of them has been served."
        )


class TooManyQueues(Refusal):
    """Jobs with very many different sets of resources wait already."""

    def __init__(self, queues_max: int, whose: str) -> None:
        super().__init__(
            f"Jobs of {queues_max} different kinds and sets of resources {whose} wait already; "
            "submit this one when some of them have been served, or name fewer resources."
        )


class UnknownParent(Refusal):
    """No such job to come after exists, the caller may not see it, or it is archived."""

    def __init__(self, job_id: JobId, *, may_be_archived: bool) -> None:
        super().__init__(
            f"after names job {job_id}, which is archived or unknown: an archived job ended long "
            "ago, and how it ended is no longer known here. Leave it out."
            if may_be_archived
            else f"after names job {job_id}, and there is no such job: name jobs that were "
            "submitted before, by their ids."
        )
        self.job_id = job_id


class EntryRefused(Refusal):
    """The submission comes after another entry of its batch that was not accepted."""

    nothing_was_recorded = True

    def __init__(self, entry: int) -> None:
        super().__init__(
            f"Entry {entry} of the batch, which this one comes after, was not accepted; submit "
            "both again."
        )
        self.entry = entry


class UnknownJob(Refusal):
    """No such job exists. `submitted_at` (UTC): it did not exist yet at the time in question."""

    def __init__(self, job_id: JobId, submitted_at: datetime | None = None) -> None:
        super().__init__(
            f"There is no job {job_id}."
            if submitted_at is None
            else f"There was no job {job_id} then: it was submitted later, at "
            f"{submitted_at:%Y-%m-%dT%H:%M:%S.%fZ} and position {job_id}."
        )
        self.job_id = job_id


class JobArchived(UnknownJob):
    """The job ended in the archived part of the log, so that it changes no more, and may be gone.

    `segment` names the file that has its events, if that is known.
    """

    def __init__(self, job_id: JobId, segment: str | None = None) -> None:
        where = "the archive of the log" if segment is None else f"the segment {segment}"
        Refusal.__init__(
            self,
            f"Job {job_id} is archived: its events are in {where}. Read them with `fairlog audit "
            f"--job {job_id} --archive DIR`; to run it again, submit it again.",
        )
        self.job_id = job_id
        self.segment = segment


class JobLost(UnknownJob):
    """The event that had this number was lost, and an operator accepted that."""

    def __init__(self, job_id: JobId) -> None:
        Refusal.__init__(
            self,
            f"There is no job {job_id}. The event that had this number was lost with the end of "
            "the log, and an operator has accepted that.",
        )
        self.job_id = job_id


class ArchiveConflict(Refusal):
    """Another archive of the same log was quicker."""

    def __init__(self, position: int) -> None:
        super().__init__(
            f"The log is archived up to position {position} by now: another `fairlog archive` runs "
            "or has run. Nothing was deleted by this one; run it again."
        )
        self.position = position


class LossElsewhere(Refusal):
    """The log ends at another event than the one after which a loss was to be accepted."""

    def __init__(self, position: int, at: int) -> None:
        super().__init__(
            f"The log ends at event {position}, not at {at}: nothing was accepted. Look again with "
            "`fairlog accept-loss`."
        )
        self.position = position


class MoreLost(Refusal):
    """A server has reported further lost events since the operator looked."""

    def __init__(self, reported: int) -> None:
        super().__init__(
            f"Events up to {reported} are reported as lost by now: nothing was accepted. Run the "
            "command again."
        )
        self.reported = reported


class TooManyLost(Refusal):
    """More events are lost than one command accepts."""

    def __init__(self, lost: int, most: int) -> None:
        super().__init__(
            f"{lost:,} events are lost, and at most {most:,} can be accepted, since their numbers "
            "would be given again. Stop all servers and workers, and run the command with "
            "`--forget`: what holds numbers of lost jobs must not go on."
        )


class SegmentConflict(Refusal):
    """Another process has replaced the segment's file meanwhile."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The segment {name} is not the latest file of its events any more: another `fairlog "
            "erase` or `fairlog archive` has written it anew. Run the command again."
        )
        self.name = name


class NotTheCurrentAttempt(Refusal):
    """The attempt is not the running one: it has ended, or another one follows it."""

    def __init__(self, job_id: JobId, given: int, current: int, state: str) -> None:
        super().__init__(
            f"Job {job_id}: attempt {given} cannot end it; the job is {state}, and its "
            f"latest attempt is {current}."
        )
        self.job_id = job_id
        self.given = given
        self.current = current


class LeaseHasEnded(NotTheCurrentAttempt):
    """The attempt's lease has ended by the log's clock, even if no event records it yet."""

    def __init__(self, job_id: JobId, attempt: int, ended_at: datetime) -> None:
        Refusal.__init__(
            self,
            f"Job {job_id}: the lease of attempt {attempt} ended at "
            f"{ended_at:%Y-%m-%dT%H:%M:%S.%fZ}; what its worker says after that does not count.",
        )
        self.job_id, self.given, self.current = job_id, attempt, attempt


class TimeWasUp(NotTheCurrentAttempt):
    """The attempt has timed out by the log's clock, even if no event records it yet."""

    def __init__(self, job_id: JobId, attempt: int, ended_at: datetime) -> None:
        Refusal.__init__(
            self,
            f"Job {job_id}: attempt {attempt} had its timeout_seconds at "
            f"{ended_at:%Y-%m-%dT%H:%M:%S.%fZ}; what its worker says after that does not count.",
        )
        self.job_id, self.given, self.current = job_id, attempt, attempt


class HeldByAnother(Refusal):
    """Another worker holds the lease of the job that was to be given back."""

    def __init__(self, job_id: JobId) -> None:
        super().__init__(f"Job {job_id} is held by another worker; it alone can give the job back.")
        self.job_id = job_id


class ReturnedTooOften(Refusal):
    """The job was given back `RETURNS_MAX` times since it was submitted or retried."""

    def __init__(self, job_id: JobId, returns: int) -> None:
        super().__init__(
            f"Job {job_id} was given back {returns} times; complete it, report that it failed, or "
            f"let its lease end."
        )
        self.job_id = job_id


class JobHasEnded(Refusal):
    """The job to be cancelled is done or has failed."""

    def __init__(self, job_id: JobId, state: str) -> None:
        super().__init__(
            f"Job {job_id} is {state}; only a job that has not ended can be cancelled."
        )


class JobHasNotEnded(Refusal):
    """The job to be retried is neither failed nor cancelled."""

    def __init__(self, job_id: JobId, state: str) -> None:
        super().__init__(
            f"Job {job_id} is {state}; only a failed or cancelled job can be started again."
        )


class JobWasErased(Refusal):
    """The payload of the job to be retried has been erased."""

    def __init__(self, job_id: JobId) -> None:
        super().__init__(f"The payload of job {job_id} has been erased; submit a new job instead.")


class BodiesAreNeeded(Refusal):
    """The job whose bodies were to be erased has not ended."""

    def __init__(self, job_id: JobId, state: str) -> None:
        super().__init__(
            f"Job {job_id} is {state} and needs its payload; wait for its end or cancel it first."
        )


class JobHasMovedOn(Refusal):
    """The job has a later attempt, or another body, than those that were to be erased."""

    def __init__(self, job_id: JobId) -> None:
        super().__init__(f"Job {job_id} has changed since its bodies were looked up; do so again.")


class KeyNotValid(Refusal):
    """The API key is unknown, revoked or expired, or there is none where one is required."""

    def __init__(self, message: str = "The API key is not valid.") -> None:
        super().__init__(message)


class NotAllowed(Refusal):
    """The API key may not do this; the message says what is missing."""


class MissingRight(NotAllowed):
    """The role of the API key lacks a right. `rights`: one of them is needed."""

    def __init__(self, name: KeyName, role: str, rights: Sequence[str]) -> None:
        super().__init__(
            f"The key {name!r} has the role {role}, which lacks the right: {' or '.join(rights)}."
        )


class NotForUser(NotAllowed):
    """The API key is not for this user."""

    def __init__(self, name: KeyName, user_id: UserId) -> None:
        super().__init__(f"The key {name!r} is not for user {user_id!r}.")


class NotForKind(NotAllowed):
    """The API key is not for this kind of job. `kinds` are those that it is for."""

    def __init__(self, name: KeyName, kind: Kind, kinds: Sequence[Kind] = ()) -> None:
        super().__init__(f"The key {name!r} is not for jobs of the kind {kind!r}.")
        self.kinds = list(kinds)


class BeyondBounds(NotAllowed):
    """The API key may not ask for as much."""

    def __init__(self, name: KeyName, what: str, most: float) -> None:
        super().__init__(f"The key {name!r} may ask for {what} up to {most:g}.")


class KeyExists(Refusal):
    """An API key with this name was created before; a name is never used again."""

    def __init__(self, name: KeyName) -> None:
        super().__init__(
            f"There is or was a key {name!r}, and a name is never used again; choose another name, "
            "or rotate the key."
        )


class UnknownKey(Refusal):
    """No API key has this name."""

    def __init__(self, name: KeyName) -> None:
        super().__init__(f"There is no key {name!r}.")


class KeyHasEnded(Refusal):
    """The API key to be rotated is revoked or expired."""

    def __init__(self, name: KeyName) -> None:
        super().__init__(f"The key {name!r} is revoked or expired; create one with a new name.")


class TooManyKeys(Refusal):
    """The number of API keys is at its maximum."""

    def __init__(self, keys_max: int) -> None:
        super().__init__(f"There are {keys_max:,} keys, revoked ones included, and no more fit.")


class TooManySecrets(Refusal):
    """The API key to be rotated has as many valid secrets as possible."""

    def __init__(self, name: KeyName, secrets_max: int) -> None:
        super().__init__(
            f"The key {name!r} has {secrets_max} valid secrets; wait until the overlap of an "
            "earlier rotation has ended."
        )


class UnknownPlan(Refusal):
    """No plan has this name."""

    def __init__(self, plan: PlanName) -> None:
        super().__init__(
            f"There is no plan {plan!r}; set its limits first (PUT /v1/plans/{{name}}, "
            "`fairlog plans set`)."
        )


class PlanInUse(Refusal):
    """A plan cannot be deleted, since users are on it."""

    def __init__(self, plan: PlanName, users: int) -> None:
        whose = "1 user is" if users == 1 else f"{users:,} users are"
        super().__init__(f"{whose} on the plan {plan!r}; put them on another plan first.")


class BeyondLimits(Refusal):
    """A job asks for more than its user's limits, or those of the plan, allow."""

    def __init__(self, user_id: UserId, what: str, most: int, plan: PlanName | None) -> None:
        whose = "the limits" if plan is None else f"the limits and the plan {plan!r}"
        super().__init__(
            f"{what} is at most {most:,} by {whose} of user {user_id!r}; ask for less, or leave it "
            "out."
        )


class TooManyLimits(Refusal):
    """No further kind, resource, plan or user's kind may have limits of its own."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"At most {most:,} kinds, resources, plans and users' kinds may have limits of their "
            "own; remove some, or set one for all resources with the same prefix (`shopify:*`)."
        )


class UnknownSchedule(Refusal):
    """No schedule has this name, or none that the caller may see."""

    def __init__(self, name: ScheduleName) -> None:
        super().__init__(
            f"There is no schedule {name!r}; make it first (PUT /v1/schedules/{{name}}, "
            "`fairlog schedules set`)."
        )


class BackfillGoesOn(Refusal):
    """A schedule has one backfill at a time."""

    def __init__(self, name: ScheduleName, until: datetime) -> None:
        super().__init__(
            f"A backfill of the schedule {name!r} up to {until.isoformat()} goes on; wait until "
            "it has ended."
        )


class NothingToBackfill(Refusal):
    """No due time is in the span of a backfill."""

    def __init__(self, name: ScheduleName) -> None:
        super().__init__(
            f"The schedule {name!r} has no due time in this span that has come yet; name an "
            "earlier or a longer one."
        )


class TooManyTimes(Refusal):
    """The span of a backfill has too many due times."""

    def __init__(self, most: int, until: datetime) -> None:
        super().__init__(
            f"At most {most:,} due times are run by one backfill; send until = "
            f"{until.isoformat()} first, and the rest afterwards."
        )


class UnknownCallback(Refusal):
    """No endpoint of callbacks has this name."""

    def __init__(self, name: CallbackName) -> None:
        super().__init__(
            f"There is no callback endpoint {name!r}; make it first (PUT /v1/callbacks/{{name}}, "
            "`fairlog callbacks set`)."
        )


class TooManyCallbacks(Refusal):
    """No further endpoint may be made."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"At most {most} callback endpoints may be set, since the end of a job tells each of "
            "them; delete one, or have one endpoint pass the messages on."
        )


class InvalidInput(FairlogError):
    """A value is invalid whatever the state; the message names it and what is accepted.

    `is_too_large`: the value exceeds a limit of size.
    """

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


class LogUnavailable(FairlogError):
    """The database did not answer in time. The command may have been recorded."""

    def __init__(self, message: str, *, nothing_was_recorded: bool = False) -> None:
        super().__init__(message)
        self.nothing_was_recorded = nothing_was_recorded


class LogFileReplaced(LogUnavailable):
    """The open SQLite file was removed, moved or replaced. Lasts until it is put back."""


class LogIsBehind(LogUnavailable):
    """The database server that was read does not have what this process has written.

    A replica that lags and a primary that was replaced answer so.
    """

    def __init__(self, position: int, written: int) -> None:
        super().__init__(
            f"The database that answered ends at event {position}, and event {written} has been "
            "written: it may lag behind another, or have been replaced; send the request again."
        )


class EventsLost(LogUnavailable):
    """The database does not have events that this process has written or seen.

    A replica that was promoted and a backup that was restored answer so, and for a moment a node
    that lags.
    """

    def __init__(self, position: int, known: int) -> None:
        """`position` is the end of the log, `known` the latest event that was known."""
        what = (
            f"ends at event {position}, and does not have event {known}, which a server knows"
            if position < known
            else f"has another event {known} than this server knows"
        )
        how = (
            f"until an operator gives them up with `fairlog accept-loss --at {position}`"
            if position < known
            else "until this server is started again, which gives them up"
        )
        super().__init__(
            f"The database {what}: events that were answered are gone. Nothing is written until "
            f"they are back, or {how}."
        )


class BodyMissing(LogUnavailable):
    """The database has a job, but not its bodies at `positions`.

    A replica that lags and a primary that was replaced answer so. It is never a null body.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__(
            f"The body of event {positions[0]} is not in the database that answered, which may lag "
            "behind another; send the request again, and if the body stays missing, run "
            "`fairlog verify`."
        )
        self.positions = positions


class ClockInDoubt(LogUnavailable):
    """The database's clock seems to have stepped. Nothing is written before a second reading."""

    def __init__(self, clock: datetime, recorded_at: datetime) -> None:
        super().__init__(
            f"The database's clock shows {clock:%Y-%m-%dT%H:%M:%SZ}, which does not fit its "
            f"earlier readings (the latest event is of {recorded_at:%Y-%m-%dT%H:%M:%SZ}); it is "
            "read a second time before anything is written, and the request can be sent again.",
            nothing_was_recorded=True,
        )


class QueueFull(FairlogError):
    """Too many requests wait to be written or read. Nothing of this one was recorded."""

    nothing_was_recorded = True


class LogTooNew(FairlogError):
    """A newer release wrote to the log or a projection; this one must not write or fold it."""


class EventsArchived(FairlogError):
    """The answer needs events of the archived part of the log."""

    def __init__(self, position: int) -> None:
        super().__init__(
            f"The log up to position {position} is archived, and this needs events of that part: "
            "ask with `--archive DIR`, which reads the segments too."
        )
        self.position = position


class LogCorrupt(FairlogError):
    """The stored log cannot be what Fairlog wrote."""


class ArchiveUnavailable(FairlogError):
    """The place of the archive cannot be read or written now. The log is unchanged."""


class SegmentUnusable(FairlogError):
    """A segment is missing, cut short, changed, no segment at all, or belongs to another log.

    The message names the file and says what to do.
    """


class OutboxUnavailable(FairlogError):
    """The tables of the outbox cannot be read or changed now. Nothing else is affected."""


class WriteFailed(FairlogError):
    """The database refused this command; the other commands of its batch were written."""


__all__ = [
    "ArchiveConflict",
    "ArchiveUnavailable",
    "BeyondBounds",
    "BodiesAreNeeded",
    "BodyMissing",
    "ClockInDoubt",
    "EventsArchived",
    "EventsLost",
    "FairlogError",
    "HeldByAnother",
    "InvalidInput",
    "JobArchived",
    "JobHasEnded",
    "JobHasMovedOn",
    "JobHasNotEnded",
    "JobLost",
    "JobWasErased",
    "KeyExists",
    "KeyHasEnded",
    "KeyNotValid",
    "KeyReusedWithOtherPayload",
    "LeaseHasEnded",
    "LogCorrupt",
    "LogFileReplaced",
    "LogIsBehind",
    "LogTooNew",
    "LogUnavailable",
    "LossElsewhere",
    "MissingRight",
    "MoreLost",
    "NotAllowed",
    "NotForKind",
    "NotForUser",
    "NotTheCurrentAttempt",
    "OutboxUnavailable",
    "QueueFull",
    "RateLimited",
    "Refusal",
    "ReturnedTooOften",
    "SegmentConflict",
    "SegmentUnusable",
    "TimeWasUp",
    "TooManyKeys",
    "TooManyKinds",
    "TooManyQueues",
    "TooManySecrets",
    "UnknownJob",
    "UnknownKey",
    "WriteFailed",
    "fresh_copy",
    "without_traceback",
]
