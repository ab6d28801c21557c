"""Wishes. Each is decided under the log's lock; what it asks for may be refused.

Bodies travel in canonical JSON, so that equal values are equal bytes (see
`domain.language.bodies`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from domain.language.bodies import Body
from domain.language.events import Scope
from domain.language.identifiers import JobId, Kind, ServerId, UserId, WorkerId


class SubmitJob(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    user_id: UserId
    kind: Kind
    payload: Body
    idempotency_key: str | None = None  # None: the digest of kind and payload
    run_at: datetime | None = None  # UTC; None or past: at once
    expires_at: datetime | None = None  # UTC; None: never
    timeout_seconds: float | None = None  # None: the policy's, or as long as its lease is kept
    max_attempts: int | None = None  # None: the policy's
    priority: int = 0


class ReportRefusals(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Submissions that a process refused at its door, in a window known to be used up."""

    user_id: UserId
    scope: Scope
    used: int
    limit: int
    window_start: datetime  # UTC
    window_seconds: int
    count: int  # submissions refused
    first_at: datetime  # UTC, by the log's clock as the process knew it
    last_at: datetime


CLAIM_PAYLOAD_BYTES_MAX: Final = 16 * 1024 * 1024


class ClaimJobs(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Give a worker up to `max_jobs` in fair order. Fewer may come although more are waiting.

    No more than one answer can carry are started: one job, and more while all their payloads
    together have at most `payload_bytes_max` bytes.
    """

    worker: WorkerId
    max_jobs: int  # 1 to 1000; 0: only to have recorded that it gave nothing
    kinds: tuple[Kind, ...] | None = None  # None: any
    server: ServerId | None = None  # of an embedded worker
    claim_id: str | None = None  # the same again: the same jobs or fewer, see `domain.jobs.claims`
    may_wait: bool = False  # an empty answer is not the caller's: it will be asked for again
    payload_bytes_max: int = CLAIM_PAYLOAD_BYTES_MAX
    # How many of the jobs begin at once; the worker says when the others do. None: all of them,
    # and it will not say.
    begins: int | None = None


class ExtendLeases(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    worker: WorkerId
    jobs: Sequence[tuple[JobId, int]]  # (job, attempt)
    begun: tuple[tuple[JobId, int], ...] = ()  # those of them whose handlers have begun


class CompleteJob(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    job_id: JobId
    attempt: int
    result: Body | None = None  # None: null


class FailJob(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    job_id: JobId
    attempt: int
    error: Body
    may_retry: bool = True  # False: a permanent failure, whatever attempts are left


class ReturnJob(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """A worker that stops gives a job back unharmed; it does not count as a failure."""

    job_id: JobId
    attempt: int
    begun: bool | None = None  # whether its handler had; None: as far as the log knows
    worker: WorkerId | None = None  # that must hold it; None: whoever does
    suspect: bool = False  # it may have ended the process that ran it: make its next attempt alone


class CancelJob(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    job_id: JobId


class RetryJob(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Start a failed or cancelled job again, with as many new attempts as it had at first. It uses
    its user's window up as a submission does.
    """

    job_id: JobId


class EraseBodies(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Remove what users put into a job that has ended: a law may demand it."""

    job_id: JobId
    attempt: int  # the latest; a later one may have more bodies than these
    positions: tuple[int, ...]  # where the bodies are


class EnforceDeadlines(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Look at jobs whose time may have come: a lease, a time-out, a schedule or an expiry.

    With a lost lease belong the other jobs of its worker: whether it counts depends on them.
    """

    jobs: Sequence[JobId]


class RecoverJobs(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Queue again what a dead server process was running inside itself."""

    server: ServerId
    jobs: Sequence[JobId]


class ChangeLimit(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Other limits from now on. UNSET leaves one as it is, None gives the default again."""

    scope: Scope
    user_id: UserId | None = None
    kind: Kind | None = None
    limit: int | UnsetType | None = UNSET
    running: int | UnsetType | None = UNSET


class AcceptClock(Struct, frozen=True, kw_only=True, gc=False, tag=True):
    """Have the log's time go by the database's clock again: it is right."""


JobCommand = CompleteJob | FailJob | ReturnJob | CancelJob | RetryJob | EraseBodies
Command = (
    SubmitJob
    | ReportRefusals
    | ClaimJobs
    | ExtendLeases
    | JobCommand
    | EnforceDeadlines
    | RecoverJobs
    | ChangeLimit
    | AcceptClock
)
