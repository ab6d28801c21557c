"""What can go wrong, in one tree. Errors know nothing of HTTP.

FairlogError
├── Refusal                        a rule said no; the log may still have recorded the decision
│   ├── RateLimited
│   ├── KeyReusedWithOtherPayload
│   ├── TooManyKinds
│   ├── UnknownJob
│   ├── NotTheCurrentAttempt
│   │   ├── LeaseHasEnded
│   │   └── TimeWasUp
│   ├── HeldByAnother
│   ├── ReturnedTooOften
│   ├── JobHasEnded
│   ├── JobHasNotEnded
│   ├── JobWasErased
│   ├── BodiesAreNeeded
│   └── JobHasMovedOn
├── InvalidInput                   a command that no state could accept
├── LogUnavailable                 the database did not answer; the outcome may be unknown
│   ├── LogFileReplaced            the open file is not the one at its path any more
│   ├── BodyMissing                what an event's body should be is not there, or not there yet
│   └── ClockInDoubt               the database's clock stepped; it is looked at once more
├── QueueFull                      too much is waiting to be written
├── LogTooNew                      the log or a projection was written by a newer release
├── LogCorrupt                     what was read cannot be what was written
└── WriteFailed                    the database refused this one command
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from domain.language.events import RateLimitDecided, Scope
from domain.language.identifiers import JobId, UserId


class FairlogError(Exception):
    """Anything that Fairlog raises on purpose; its text is a sentence for the user."""

    nothing_was_recorded = False  # True where a command is known to have left nothing in the log

    def __reduce__(self) -> tuple[Any, ...]:
        """For the way to another process: as it is, not made anew by its constructor."""
        return _as_it_was, (type(self), self.args, self.__dict__)


E = TypeVar("E", bound=BaseException)


def without_traceback(error: E) -> E:
    """The error without the frames that it left, for whoever keeps it as a value.

    They hold what their variables hold, and the frames that called them. Is the error among that,
    or a future that has it, then all stays in memory until the garbage collector comes: with each
    refusal its payload.
    """
    return error.with_traceback(None)


def fresh_copy(error: Exception) -> Exception:
    """The same error, to be raised where something else keeps it too.

    See `without_traceback`: what is kept is never raised itself.
    """
    if not isinstance(error, FairlogError):
        return without_traceback(error)
    anew = _as_it_was(type(error), error.args, error.__dict__)
    anew.__cause__ = error.__cause__
    return anew


def _as_it_was(
    cls: type[FairlogError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> FairlogError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class Refusal(FairlogError):
    """A rule said no. A result, not an accident: it never spoils its neighbours in a batch."""

    decision: RateLimitDecided | None = None  # that was made about the same submission
    decided_at: datetime | None = None  # UTC, by the log's clock


class RateLimited(Refusal):
    """`user_id` is whose submission it was, where the decision was made about another one's."""

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

    def __str__(self) -> str:  # made when it is read: most of them never are
        whose = f"user {self.user_id!r}" if self.scope is Scope.USER else "all users together"
        return (
            f"The limit of {self.limit} submissions in {self.window_seconds} s for "
            f"{whose} is used up; try again after {self.resets_at:%Y-%m-%dT%H:%M:%SZ}."
        )


class KeyReusedWithOtherPayload(Refusal):
    def __init__(self, key: str, job_id: JobId) -> None:
        super().__init__(
            f"The idempotency key {key!r} already stands for job {job_id}, with another kind or "
            f"payload; use a new key for a new job."
        )
        self.job_id = job_id


class TooManyKinds(Refusal):
    def __init__(self, user_id: UserId, kinds_max: int) -> None:
        super().__init__(
            f"User {user_id!r} already has jobs of {kinds_max} kinds waiting; submit this kind "
            f"when one of them has been served."
        )


class UnknownJob(Refusal):
    """`submitted_at` (UTC): it exists, but did not yet at the time that was asked about."""

    def __init__(self, job_id: JobId, submitted_at: datetime | None = None) -> None:
        super().__init__(
            f"There is no job {job_id}."
            if submitted_at is None
            else f"There was no job {job_id} then: it was submitted later, at "
            f"{submitted_at:%Y-%m-%dT%H:%M:%S.%fZ} and position {job_id}."
        )
        self.job_id = job_id


class NotTheCurrentAttempt(Refusal):
    def __init__(self, job_id: JobId, given: int, current: int, state: str) -> None:
        super().__init__(
            f"Job {job_id}: attempt {given} cannot end it; the job is {state}, and its "
            f"latest attempt is {current}."
        )
        self.job_id = job_id
        self.given = given
        self.current = current


class LeaseHasEnded(NotTheCurrentAttempt):
    """By the log's clock, whether or not anything was made of it yet."""

    def __init__(self, job_id: JobId, attempt: int, ended_at: datetime) -> None:
        Refusal.__init__(
            self,
            f"Job {job_id}: the lease of attempt {attempt} ended at "
            f"{ended_at:%Y-%m-%dT%H:%M:%S.%fZ}; what its worker says after that does not count.",
        )
        self.job_id, self.given, self.current = job_id, attempt, attempt


class TimeWasUp(NotTheCurrentAttempt):
    """By the log's clock, whether or not anything was made of it yet."""

    def __init__(self, job_id: JobId, attempt: int, ended_at: datetime) -> None:
        Refusal.__init__(
            self,
            f"Job {job_id}: attempt {attempt} had its timeout_seconds at "
            f"{ended_at:%Y-%m-%dT%H:%M:%S.%fZ}; what its worker says after that does not count.",
        )
        self.job_id, self.given, self.current = job_id, attempt, attempt


class HeldByAnother(Refusal):
    def __init__(self, job_id: JobId) -> None:
        super().__init__(f"Job {job_id} is held by another worker; it alone can give the job back.")
        self.job_id = job_id


class ReturnedTooOften(Refusal):
    def __init__(self, job_id: JobId, returns: int) -> None:
        super().__init__(
            f"Job {job_id} was given back {returns} times; complete it, report that it failed, or "
            f"let its lease end."
        )
        self.job_id = job_id


class JobHasEnded(Refusal):
    def __init__(self, job_id: JobId, state: str) -> None:
        super().__init__(
            f"Job {job_id} is {state}; only a job that has not ended can be cancelled."
        )


class JobHasNotEnded(Refusal):
    def __init__(self, job_id: JobId, state: str) -> None:
        super().__init__(
            f"Job {job_id} is {state}; only a failed or cancelled job can be started again."
        )


class JobWasErased(Refusal):
    def __init__(self, job_id: JobId) -> None:
        super().__init__(
            f"What job {job_id} was to work on has been erased; submit a new job instead."
        )


class BodiesAreNeeded(Refusal):
    def __init__(self, job_id: JobId, state: str) -> None:
        super().__init__(
            f"Job {job_id} is {state} and needs its payload; wait for its end or cancel it first."
        )


class JobHasMovedOn(Refusal):
    def __init__(self, job_id: JobId, given: int, current: int) -> None:
        super().__init__(
            f"Job {job_id}: its latest attempt is {current}, not {given}; look at it again."
        )


class InvalidInput(FairlogError):
    """A value that no state could accept; the text says which and what is accepted."""

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


class LogUnavailable(FairlogError):
    """The database did not answer in time. The command may or may not have been recorded."""

    def __init__(self, message: str, *, nothing_was_recorded: bool = False) -> None:
        super().__init__(message)
        self.nothing_was_recorded = nothing_was_recorded


class LogFileReplaced(LogUnavailable):
    """SQLite: the file was removed, moved or replaced under us. It lasts until it is put back."""


class BodyMissing(LogUnavailable):
    """The database that answered has a job and not what belongs to it; `positions` are the bodies'.

    A replica that is behind and a primary that was replaced answer so; never take it for null.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__(
            f"The body of event {positions[0]} is not in the database that answered, which may be "
            "behind another; ask again, and if it stays missing, run `fairlog verify`."
        )
        self.positions = positions


class ClockInDoubt(LogUnavailable):
    """The database's clock is not where it should be. Nothing is written before a second look."""

    def __init__(self, clock: datetime, recorded_at: datetime) -> None:
        super().__init__(
            f"The database's clock shows {clock:%Y-%m-%dT%H:%M:%SZ}, which does not follow from "
            f"before (the latest event is of {recorded_at:%Y-%m-%dT%H:%M:%SZ}); it is looked at "
            "once more before anything is written, and the request can be sent again.",
            nothing_was_recorded=True,
        )


class QueueFull(FairlogError):
    """Too much is waiting, to be written or to be read; nothing of this one was recorded."""

    nothing_was_recorded = True


class LogTooNew(FairlogError):
    """Another process runs a newer release; this one must stop before it folds differently."""


class LogCorrupt(FairlogError):
    """What the log holds cannot be what was written to it."""


class WriteFailed(FairlogError):
    """The database refused this command alone; its neighbours went through."""


__all__ = [
    "BodiesAreNeeded",
    "BodyMissing",
    "ClockInDoubt",
    "FairlogError",
    "HeldByAnother",
    "InvalidInput",
    "JobHasEnded",
    "JobHasMovedOn",
    "JobHasNotEnded",
    "JobWasErased",
    "KeyReusedWithOtherPayload",
    "LeaseHasEnded",
    "LogCorrupt",
    "LogFileReplaced",
    "LogTooNew",
    "LogUnavailable",
    "NotTheCurrentAttempt",
    "QueueFull",
    "RateLimited",
    "Refusal",
    "ReturnedTooOften",
    "TimeWasUp",
    "TooManyKinds",
    "UnknownJob",
    "WriteFailed",
    "fresh_copy",
    "without_traceback",
]
