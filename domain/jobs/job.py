"""A job as it stands: what is known of it, and what follows from that and the time alone.

Three numbers are kept apart. `attempt` only ever grows and is the fencing token: whoever holds an
older one is refused. `starts` counts the attempts whose handler began. `failures` counts those that
failed since the job was submitted or retried: they use up the attempts that were granted.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from msgspec import Struct

from domain.language.idempotency import key_hash
from domain.language.identifiers import JobId, KeyHash, Kind, ServerId, UserId, WorkerId
from domain.language.moments import later


class State(StrEnum):
    SCHEDULED = "scheduled"  # waits for a time
    QUEUED = "queued"  # waits for its turn
    RUNNING = "running"  # a worker holds its lease
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Ending(Struct, frozen=True, gc=False):
    """An attempt that is over for the job, while its handler may still run: it holds its place."""

    attempt: int
    worker: WorkerId
    lease_expires_at: datetime  # UTC; then it has ended in any case


class Job(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    id: JobId
    user_id: UserId
    kind: Kind
    state: State
    attempt: int = 0  # the latest, the fencing token; 0: never claimed
    starts: int = 0  # attempts whose handler began, as far as the log knows
    failures: int = 0  # since it was submitted or retried
    attempts_granted: int  # that may fail; a retry grants as many again
    losses: int = 0  # of workers, one after the other, that did not count as failures
    is_suspect: bool = False  # it may have killed its worker: its next attempt is made alone
    ending: tuple[Ending, ...] = ()
    priority: int = 0
    payload_sha256: str
    payload_bytes: int
    idempotency_key: str
    key_is_explicit: bool
    key_expires_at: datetime
    holds_key: bool = True  # until a newer job takes the key over
    run_at: datetime | None = None  # as submitted, or when the next attempt is due
    expires_at: datetime | None = None
    timeout_seconds: float | None = None
    worker: WorkerId | None = None  # of the latest attempt
    server: ServerId | None = None
    claim_id: str | None = None
    lease_expires_at: datetime | None = None  # while running
    missed_at: int | None = None  # position of a WorkerMissed, until a heartbeat after it
    submitted_at: datetime
    started_at: datetime | None = None  # when the latest attempt was claimed
    started_position: int = 0  # of its JobStarted
    returns: int = 0  # by workers that stopped, since it was submitted or retried
    begun_at: datetime | None = None  # when its handler began; None: not yet
    finished_at: datetime | None = None  # done, failed or cancelled
    updated_at: datetime
    result_position: int | None = None  # where the body is
    error_position: int | None = None  # of the latest failure
    outcome_attempt: int = 0  # which attempt reported the outcome below
    erased_at: datetime | None = None  # when what users put in was removed; it cannot run again
    outcome: str | None = None  # "done:<sha256>" or "failed:<sha256>", to recognise a repeat

    @property
    def key_hash(self) -> KeyHash | None:
        if not self.holds_key:
            return None
        return key_hash(self.user_id, self.idempotency_key, is_explicit=self.key_is_explicit)

    def key_is_valid(self, now: datetime) -> bool:
        """Whether its key, while it holds it, still stands for it: for the time that was promised,
        and at least until it has ended.
        """
        return now < self.key_expires_at or self.state not in ENDED

    @property
    def final_attempt(self) -> int:
        """The last attempt that may be made, as things stand: one more for each that is given
        back.
        """
        left = self.attempts_granted - self.failures
        return self.attempt + (left - 1 if self.state is State.RUNNING else left)

    @property
    def times_out_at(self) -> datetime | None:
        """UTC; when the running attempt has had its time, which begins with its handler."""
        if self.state is not State.RUNNING or not self.timeout_seconds or self.begun_at is None:
            return None
        return later(self.begun_at, self.timeout_seconds)

    @property
    def expires(self) -> datetime | None:
        """UTC; when it ends unless its handler has begun, None when it has."""
        return self.expires_at if self.starts == 0 else None

    @property
    def due_at(self) -> datetime | None:
        """UTC; when the clock alone changes this job, None for never."""
        places = [one.lease_expires_at for one in self.ending] if self.ending else ()
        match self.state:
            case State.RUNNING:
                return _earliest(self.lease_expires_at, self.times_out_at, *places)
            case State.SCHEDULED:
                return _earliest(self.run_at, self.expires, *places)
            case State.QUEUED:
                return _earliest(self.expires, *places)
            case _:
                return _earliest(*places)

    def ending_attempt(self, attempt: int) -> Ending | None:
        return next((one for one in self.ending if one.attempt == attempt), None)

    def is_held(self, worker: WorkerId, now: datetime) -> bool:
        """By this worker, by the log's clock: neither its lease nor its time is over."""
        return (
            self.state is State.RUNNING
            and self.worker == worker
            and is_future(self.lease_expires_at, now)
            and is_future(self.times_out_at, now)
        )

    def is_lost(self, now: datetime) -> bool:
        """Its lease has ended, by the log's clock."""
        return self.state is State.RUNNING and not is_future(self.lease_expires_at, now)


ENDED: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})


def is_future(moment: datetime | None, now: datetime) -> bool:
    """Tell if a moment has not come yet; None never comes."""
    return moment is None or now < moment


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
