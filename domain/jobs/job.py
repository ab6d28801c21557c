"""The state of a job, and what follows from it and the time.

It has three counters. `attempt` only grows and is the fencing token: an older one is refused.
`starts` counts the attempts whose handler began. `failures` counts those that failed since the job
was submitted or retried, up to `attempts_granted`.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from msgspec import Struct

from domain.language.events import FailureReason
from domain.language.idempotency import key_hash
from domain.language.identifiers import (
    JobId,
    KeyHash,
    KeyName,
    Kind,
    ResourceName,
    ServerId,
    UserId,
    WorkerId,
)
from domain.language.limits import RetryPolicy
from domain.language.moments import later


class State(StrEnum):
    """The state of a job; the last three are final unless it is retried."""

    SCHEDULED = "scheduled"  # waits for a time
    QUEUED = "queued"  # waits for its turn
    RUNNING = "running"  # a worker holds its lease
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Ending(Struct, frozen=True, gc=False, omit_defaults=True):
    """A cancelled or timed out attempt whose handler may still run: it counts as running."""

    attempt: int
    worker: WorkerId
    lease_expires_at: datetime  # UTC; it counts as ended then
    holder: KeyName | None = None  # see `Job.holder`


class Job(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The state of a job. Stored by the jobs projection; all times are UTC, by the log's clock."""

    id: JobId
    user_id: UserId
    kind: Kind
    state: State
    attempt: int = 0  # number of the latest, the fencing token; 0: never claimed
    starts: int = 0  # attempts whose handler began, as far as the log knows
    failures: int = 0  # since it was submitted or retried
    errors: int = 0  # failures that were no loss of a worker: the backoff counts these
    attempts_granted: int  # that may fail (max_attempts); a retry grants as many again
    losses: int = 0  # consecutive lost workers that did not count as failures
    is_suspect: bool = False  # it may have killed its worker: its next attempt runs alone
    ending: tuple[Ending, ...] = ()
    priority: int = 0  # among the user's own jobs; higher is sooner
    resources: tuple[ResourceName, ...] = ()  # that it uses, in order of their names
    payload_sha256: str  # hex
    payload_bytes: int
    idempotency_key: str  # explicit, or a digest of the content
    key_is_explicit: bool
    key_expires_at: datetime  # see `key_is_valid`
    holds_key: bool = True  # until a newer job takes the key over
    run_at: datetime | None = None  # as submitted, or when the next attempt is due
    expires_at: datetime | None = None  # cancelled then unless it has begun
    timeout_seconds: float | None = None  # of one attempt, from its begin; None: no time-out
    retry: RetryPolicy | None = None  # None: the default
    worker: WorkerId | None = None  # of the latest attempt
    server: ServerId | None = None  # that this worker is embedded in
    holder: KeyName | None = None  # the API key that claimed the latest attempt; None: no key
    claim_id: str | None = None  # of the claim of the latest attempt
    lease_expires_at: datetime | None = None  # while running
    missed_at: int | None = None  # position of a WorkerMissed, until a heartbeat after it
    submitted_at: datetime
    started_at: datetime | None = None  # when the latest attempt was claimed
    started_position: int = 0  # of its JobStarted
    returns: int = 0  # times it was given back since it was submitted or retried
    begun_at: datetime | None = None  # when the latest attempt's handler began; None: not yet
    progress: float | None = None  # of the latest attempt, 0 to 1, as its handler reported it
    progress_position: int | None = None  # of the body with the message; None: no message
    progress_at: datetime | None = None  # when that was recorded
    finished_at: datetime | None = None  # when it became done, failed or cancelled
    updated_at: datetime  # of the latest event that changed it
    result_position: int | None = None  # of the body; None: no result, or null
    failure: FailureReason | None = None  # of the latest attempt that failed or was lost
    failed_attempt: int = 0  # that attempt; 0: none
    error_position: int | None = None  # of its error; None: the reason is all that is known
    outcome_attempt: int = 0  # that reported `outcome`
    erased_at: datetime | None = None  # when its bodies were erased; it cannot be retried
    outcome: str | None = None  # "done:<sha256>" or "failed:<sha256>", to detect a repeat

    @property
    def key_hash(self) -> KeyHash | None:
        if not self.holds_key:
            return None
        return key_hash(self.user_id, self.idempotency_key, is_explicit=self.key_is_explicit)

    def key_is_valid(self, now: datetime) -> bool:
        """Return True if the key, while the job holds it, still means the job.

        It does until `key_expires_at`, and at least until the job has ended. A digest does not once
        the job has failed or was cancelled: who submits the same again wants it to run.
        """
        if not self.key_is_explicit and self.state in {State.FAILED, State.CANCELLED}:
            return False
        return self.key_may_be_valid(now)

    def key_may_be_valid(self, now: datetime) -> bool:
        """Return True unless the key has expired; earlier releases decided by this alone."""
        return now < self.key_expires_at or self.state not in ENDED

    @property
    def final_attempt(self) -> int:
        """Number of the final attempt that may be made; grows with each attempt that does not
        count as a failure.
        """
        left = self.attempts_granted - self.failures
        return self.attempt + (left - 1 if self.state is State.RUNNING else left)

    @property
    def times_out_at(self) -> datetime | None:
        """The time-out of the running attempt, UTC; None: never, or its handler has not begun."""
        if self.state is not State.RUNNING or not self.timeout_seconds or self.begun_at is None:
            return None
        return later(self.begun_at, self.timeout_seconds)

    @property
    def expires(self) -> datetime | None:
        """The expiry of the job, UTC; None: it has none, or a handler has begun."""
        return self.expires_at if self.starts == 0 else None

    @property
    def due_at(self) -> datetime | None:
        """The next deadline of the job, UTC; None: it has none."""
        leases = [one.lease_expires_at for one in self.ending] if self.ending else ()
        match self.state:
            case State.RUNNING:
                return _earliest(self.lease_expires_at, self.times_out_at, *leases)
            case State.SCHEDULED:
                return _earliest(self.run_at, self.expires, *leases)
            case State.QUEUED:
                return _earliest(self.expires, *leases)
            case _:
                return _earliest(*leases)

    def ending_attempt(self, attempt: int) -> Ending | None:
        return next((one for one in self.ending if one.attempt == attempt), None)

    def is_held(self, worker: WorkerId, holder: KeyName | None, now: datetime) -> bool:
        """Return True if this worker of this API key runs the job, and neither lease nor time-out
        is over.
        """
        return (
            self.state is State.RUNNING
            and (self.worker, self.holder) == (worker, holder)
            and is_future(self.lease_expires_at, now)
            and is_future(self.times_out_at, now)
        )

    def is_lost(self, now: datetime) -> bool:
        """Return True if the running attempt's lease has ended."""
        return self.state is State.RUNNING and not is_future(self.lease_expires_at, now)


ENDED: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})


def is_future(moment: datetime | None, now: datetime) -> bool:
    """Return True if a moment has not come yet; None never comes."""
    return moment is None or now < moment


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
