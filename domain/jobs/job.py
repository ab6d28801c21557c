"""The state of a job, and what follows from it and the time.

It has three counters. `attempt` only grows and is the fencing token: an older one is refused.
`starts` counts the attempts whose handler began. `failures` counts those that failed since the job
was submitted or retried, up to `attempts_granted`.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from domain.language.digests import packed, unpacked
from domain.language.events import AfterFailure, FailureReason
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

    SCHEDULED = "scheduled"  # waits for a time, or for other jobs
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


class Job(Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """The state of a job. All times are UTC, by the log's clock.

    The jobs projection stores the fields in this order, and leaves out defaults at the end: add a
    field at the end, with a default, or raise the projection's version.
    """

    id: JobId
    user_id: UserId
    kind: Kind
    state: State
    attempts_granted: int  # that may fail (max_attempts); a retry grants as many again
    submitted_at: datetime
    updated_at: datetime  # of the latest event that changed it
    payload_digest: bytes  # see `payload_sha256`
    payload_bytes: int
    key: bytes  # see `idempotency_key`
    key_is_explicit: bool
    key_expires_at: datetime  # see `key_is_valid`
    attempt: int = 0  # number of the latest, the fencing token; 0: never claimed
    starts: int = 0  # attempts whose handler began, as far as the log knows
    started_at: datetime | None = None  # when the latest attempt was claimed
    started_position: int = 0  # of its JobStarted
    begun_at: datetime | None = None  # when the latest attempt's handler began; None: not yet
    worker: WorkerId | None = None  # of the latest attempt
    claim_id: str | None = None  # of the claim of the latest attempt
    finished_at: datetime | None = None  # when it became done, failed or cancelled
    outcome: bytes | None = None  # see `outcome_of`, to detect a repeat
    outcome_attempt: int = 0  # that reported `outcome`
    result_position: int | None = None  # of the body; None: no result, or null
    # Few ended jobs have any of these.
    holder: KeyName | None = None  # the API key that claimed the latest attempt; None: no key
    lease_expires_at: datetime | None = None  # while running
    server: ServerId | None = None  # that this worker is embedded in
    priority: int = 0  # among the user's own jobs; higher is sooner
    run_at: datetime | None = None  # as submitted, or when the next attempt is due
    expires_at: datetime | None = None  # cancelled then unless it has begun
    timeout_seconds: float | None = None  # of one attempt, from its begin; None: no time-out
    resources: tuple[ResourceName, ...] = ()  # that it uses, in order of their names
    retry: RetryPolicy | None = None  # None: the default
    failures: int = 0  # since it was submitted or retried
    errors: int = 0  # failures that were no loss of a worker: the backoff counts these
    failure: FailureReason | None = None  # of the latest attempt that failed or was lost
    failed_attempt: int = 0  # that attempt; 0: none
    error_position: int | None = None  # of its error; None: the reason is all that is known
    holds_key: bool = True  # until a newer job takes the key over
    losses: int = 0  # consecutive lost workers that did not count as failures
    is_suspect: bool = False  # it may have killed its worker: its next attempt runs alone
    ending: tuple[Ending, ...] = ()
    missed_at: int | None = None  # position of a WorkerMissed, until a heartbeat after it
    returns: int = 0  # times it was given back since it was submitted or retried
    progress: float | None = None  # of the latest attempt, 0 to 1, as its handler reported it
    progress_position: int | None = None  # of the body with the message; None: no message
    progress_at: datetime | None = None  # when that was recorded
    erased_at: datetime | None = None  # when its bodies were erased; it cannot be retried
    after: tuple[JobId, ...] = ()  # its parents: the jobs that it comes after, sorted
    after_failure: AfterFailure | None = None  # if one of them fails; None: it has no parents
    # The parents of which it has not been told the end. It is told even after its own end, so that
    # each of them knows how many are left.
    waits_for: tuple[JobId, ...] = ()
    failed_parent: JobId | None = None  # because of which it did not run
    children: int = 0  # jobs that have not been told yet, or will be, that this one has ended
    callback: str | None = None  # URL that is told its end; None: only endpoints are
    deliveries: tuple[JobId, ...] = ()  # the latest jobs that tell its end, DELIVERIES_KEPT at most

    @property
    def body_positions(self) -> frozenset[int]:
        """The positions of its bodies as far as it knows them: those of earlier attempts are left
        out.
        """
        known = (self.id, self.result_position, self.error_position, self.progress_position)
        return frozenset(one for one in known if one is not None)

    @property
    def payload_sha256(self) -> str:
        """The SHA-256 of the payload in hex."""
        return unpacked(self.payload_digest)

    @property
    def idempotency_key(self) -> str:
        """The key that the client chose, or a digest of the content."""
        return self.key.decode() if self.key_is_explicit else unpacked(self.key)

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
        if self.state in ENDED and not (self.children or self.ending):
            return None
        leases = [one.lease_expires_at for one in self.ending]
        match self.state:
            case State.RUNNING:
                return _earliest(self.lease_expires_at, self.times_out_at, *leases)
            case State.SCHEDULED:
                run_at = None if self.waits_for else self.run_at
                return _earliest(run_at, self.expires, *leases)
            case State.QUEUED:
                return _earliest(self.expires, *leases)
            case _:
                # At once while children are left: more than one batch tells.
                return _earliest(self.finished_at if self.children else None, *leases)

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


def outcome_of(state: Literal[State.DONE, State.FAILED], body_sha256: str | None) -> bytes:
    """Return what an attempt came to, which a repeated report of it comes to as well."""
    return state.encode() + (b"" if body_sha256 is None else b":" + packed(body_sha256))


ENDED: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})


def is_future(moment: datetime | None, now: datetime) -> bool:
    """Return True if a moment has not come yet; None never comes."""
    return moment is None or now < moment


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
