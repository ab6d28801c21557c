"""What clients send, and the commands that it becomes. Unknown fields are refused."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import UNSET, Raw, Struct, UnsetType, field

from domain.jobs.job import State
from domain.language import validation
from domain.language.bodies import Body, body_of_json
from domain.language.commands import (
    ChangeLimit,
    ClaimJobs,
    CompleteJob,
    ExtendLeases,
    FailJob,
    ReturnJob,
    SubmitJob,
)
from domain.language.errors import InvalidInput
from domain.language.events import Scope
from domain.language.identifiers import JobId, Kind, UserId
from entrypoints.http.paging import limit_of
from entrypoints.http.strict_json import RequestBatch
from entrypoints.use_cases.bulk_retry import RetryFilter

DEFAULT_KIND = "echo"
BATCH_MAX = 1000  # submissions, outcomes, or jobs of a claim
WAIT_SECONDS_MAX = 30.0
TEXT_MAX = 1000  # characters of a text that is looked for
_NULL: Final = Raw(b"null")


class Submission(Struct, forbid_unknown_fields=True, kw_only=True):
    user_id: str
    payload: Raw  # any JSON value
    kind: str = DEFAULT_KIND
    idempotency_key: str | None = None
    run_at: datetime | None = None
    expires_at: datetime | None = None
    timeout_seconds: float | None = None
    max_attempts: int | None = None
    priority: int = 0

    def to_command(self, header_key: str | None = None) -> SubmitJob:
        """Raises `InvalidInput`. `header_key` is the Idempotency-Key header, already unquoted."""
        key = self.idempotency_key
        if header_key is not None and key is not None and header_key != key:
            raise InvalidInput(
                "The Idempotency-Key header and the field idempotency_key differ; send one of them."
            )
        key = header_key if key is None else key
        run_at, expires_at = (
            _optional(self.run_at, "run_at"),
            _optional(self.expires_at, "expires_at"),
        )
        if run_at is not None and expires_at is not None and expires_at <= run_at:
            raise InvalidInput("expires_at must be later than run_at.")
        return SubmitJob(
            user_id=validation.user_id(self.user_id),
            kind=validation.kind(self.kind),
            payload=body_of_json(bytes(self.payload), "payload"),
            idempotency_key=None if key is None else validation.idempotency_key(key),
            run_at=run_at,
            expires_at=expires_at,
            timeout_seconds=None
            if self.timeout_seconds is None
            else validation.timeout_seconds(self.timeout_seconds),
            max_attempts=None
            if self.max_attempts is None
            else validation.attempts(self.max_attempts),
            priority=validation.priority(self.priority),
        )


class SubmissionBatch(RequestBatch, forbid_unknown_fields=True):
    """Each entry is a `Submission`."""

    def check(self) -> None:
        """What concerns all of them. Raises `InvalidInput`."""
        if not 1 <= len(self.jobs) <= BATCH_MAX:
            raise InvalidInput(f"jobs has 1 to {BATCH_MAX} entries; this has {len(self.jobs)}.")


class BulkRetry(Struct, forbid_unknown_fields=True, kw_only=True):
    """Every condition that is given must hold."""

    user_id: str | None = None
    kind: str | None = None
    error_contains: str | None = None  # in a text of the latest error, its case as given
    state: Literal["failed", "cancelled"] = "failed"
    limit: int = 100
    cursor: str | None = None

    def to_filter(self) -> RetryFilter:
        if self.error_contains is not None and not 1 <= len(self.error_contains) <= TEXT_MAX:
            raise InvalidInput(f"error_contains has 1 to {TEXT_MAX} characters.")
        return RetryFilter(
            user_id=None if self.user_id is None else validation.user_id(self.user_id),
            kind=None if self.kind is None else validation.kind(self.kind),
            error_contains=self.error_contains,
            state=State(self.state),
            jobs_max=limit_of(self.limit),
        )


class ClaimRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    worker: str
    max: int = 1
    kinds: list[str] | None = None
    wait_seconds: float = 0.0
    claim_id: str | None = None
    # How many of the jobs begin at once; of the others a heartbeat says `started`. Left out: all.
    begins: int | None = None

    def to_command(self) -> ClaimJobs:
        if not 1 <= self.max <= BATCH_MAX:
            raise InvalidInput(f"max is a whole number from 1 to {BATCH_MAX}.")
        if not 0 <= self.wait_seconds <= WAIT_SECONDS_MAX:
            raise InvalidInput(f"wait_seconds is a number from 0 to {WAIT_SECONDS_MAX:.0f}.")
        if self.kinds is not None and not 1 <= len(self.kinds) <= BATCH_MAX:
            raise InvalidInput(f"kinds has 1 to {BATCH_MAX} entries; leave it out for any kind.")
        if self.begins is not None and not 0 <= self.begins <= BATCH_MAX:
            raise InvalidInput(f"begins is a whole number from 0 to {BATCH_MAX}.")
        return ClaimJobs(
            worker=validation.worker_id(self.worker),
            max_jobs=self.max,
            kinds=None if self.kinds is None else _kinds(self.kinds),
            claim_id=None if self.claim_id is None else validation.claim_id(self.claim_id),
            begins=self.begins,
        )


class HeldJob(Struct, forbid_unknown_fields=True):
    id: int
    attempt: int
    started: bool | None = None  # its handler has begun; left out: as far as the log knows

    @property
    def key(self) -> tuple[JobId, int]:
        """Raises `InvalidInput`."""
        return validation.job_id(self.id), validation.attempt(self.attempt)


class HeldJobs(Struct, forbid_unknown_fields=True):
    worker: str
    jobs: list[HeldJob]


class ReturnedJob(HeldJob, forbid_unknown_fields=True):
    suspect: bool = False  # it may have ended the process that ran it; its next attempt is alone


class ReturnedJobs(Struct, forbid_unknown_fields=True):
    worker: str
    jobs: list[ReturnedJob]

    def to_returns(self) -> list[ReturnJob]:
        _bounded(self.jobs)
        worker = validation.worker_id(self.worker)
        returned = [(*job.key, job) for job in self.jobs]
        return [
            ReturnJob(
                job_id=job_id,
                attempt=attempt,
                begun=job.started,
                worker=worker,
                suspect=job.suspect,
            )
            for job_id, attempt, job in returned
        ]


class Heartbeat(HeldJobs, forbid_unknown_fields=True):
    wait_seconds: float = 0.0

    def to_command(self) -> ExtendLeases:
        _bounded(self.jobs)
        if not 0 <= self.wait_seconds <= WAIT_SECONDS_MAX:
            raise InvalidInput(f"wait_seconds is a number from 0 to {WAIT_SECONDS_MAX:.0f}.")
        return ExtendLeases(
            worker=validation.worker_id(self.worker),
            jobs=[job.key for job in self.jobs],
            begun=tuple(job.key for job in self.jobs if job.started),
        )


class Completion(Struct, forbid_unknown_fields=True):
    attempt: int
    result: Raw = field(default_factory=lambda: _NULL)  # any JSON value

    def to_command(self, job_id: JobId) -> CompleteJob:
        return CompleteJob(
            job_id=job_id,
            attempt=validation.attempt(self.attempt),
            result=_result(self.result),
        )


class Failure(Struct, forbid_unknown_fields=True):
    attempt: int
    error: Raw  # a text, or {"type", "message", "traceback"}
    retry: bool = True

    def to_command(self, job_id: JobId) -> FailJob:
        return FailJob(
            job_id=job_id,
            attempt=validation.attempt(self.attempt),
            error=body_of_json(bytes(self.error), "error"),
            may_retry=self.retry,
        )


class OutcomeOfJob(Struct, forbid_unknown_fields=True, kw_only=True):
    """Either a result (null when left out) or an error."""

    id: int
    attempt: int
    result: Raw = field(default_factory=lambda: _NULL)
    error: Raw | UnsetType = UNSET
    retry: bool = True

    def to_command(self) -> CompleteJob | FailJob:
        job_id = validation.job_id(self.id)
        if self.error is UNSET:
            return Completion(self.attempt, self.result).to_command(job_id)
        return Failure(self.attempt, self.error, self.retry).to_command(job_id)


class OutcomeBatch(RequestBatch, forbid_unknown_fields=True):
    """Each entry is an `OutcomeOfJob`."""

    worker: str

    def check(self) -> None:
        """What concerns all of them. Raises `InvalidInput`."""
        validation.worker_id(self.worker)
        _bounded(self.jobs)


class LimitChange(Struct, forbid_unknown_fields=True):
    """A field that is left out stays as it is; null gives the default again."""

    limit: int | UnsetType | None = UNSET
    running: int | UnsetType | None = UNSET

    def to_command(
        self, scope: Scope, user_id: UserId | None = None, kind: Kind | None = None
    ) -> ChangeLimit:
        if self.limit is UNSET and self.running is UNSET:
            raise InvalidInput("Give limit or running, as a whole number or null.")
        if scope is Scope.GLOBAL and isinstance(self.running, int):
            raise InvalidInput("running caps a user or a kind; there is no global one.")
        for number, what in ((self.limit, "limit"), (self.running, "running")):
            if isinstance(number, int):
                validation.limit(number, what)
        return ChangeLimit(
            scope=scope, user_id=user_id, kind=kind, limit=self.limit, running=self.running
        )


class KindChange(Struct, forbid_unknown_fields=True):
    running: int | None

    def to_command(self, kind: Kind) -> ChangeLimit:
        return LimitChange(running=self.running).to_command(Scope.KIND, kind=kind)


def _optional(value: datetime | None, what: str) -> datetime | None:
    return None if value is None else validation.moment(value, what)


def _kinds(kinds: Sequence[str]) -> tuple[Kind, ...]:
    return tuple(sorted({validation.kind(kind) for kind in kinds}))


def _result(value: Raw) -> Body | None:
    text = bytes(value)
    return None if text == b"null" else body_of_json(text, "result")


def _bounded(jobs: Sequence[object]) -> None:
    if len(jobs) > BATCH_MAX:
        raise InvalidInput(f"At most {BATCH_MAX} jobs at once; this has {len(jobs)}.")
