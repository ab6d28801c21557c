"""Bodies of requests, and their conversion to commands. Unknown fields are refused.

Every method `to_command` raises `InvalidInput` for a value that the types do not check.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from domain.jobs.job import State
from domain.language import validation
from domain.language.bodies import Body, body_of, body_of_json
from domain.language.commands import (
    ClaimJobs,
    CompleteJob,
    ExtendLeases,
    FailJob,
    Progress,
    ReturnJob,
    SubmitJob,
)
from domain.language.errors import InvalidInput
from domain.language.identifiers import JobId, KeyName, Kind, WorkerId
from domain.language.ranges import (
    ATTEMPT,
    JOB_ID,
    MaxAttempts,
    Name,
    Priority,
    Time,
    TimeoutSeconds,
)
from domain.language.retry_fields import RetryFields
from domain.language.validation import AFTER_MAX, RESOURCES_MAX
from entrypoints.http.callback_requests import CallbackTarget
from entrypoints.http.paging import PageLimit
from entrypoints.http.strict_json import RequestBatch
from entrypoints.use_cases.bulk_retry import RetryFilter

BATCH_MAX = 1000  # submissions, outcomes or jobs in one request
WAIT_SECONDS_MAX = 30  # for work, or for a cancellation
TEXT_MAX = 1000  # characters of a text to search for
_NULL: Final = Raw(b"null")

_WaitSeconds = Annotated[float, Meta(ge=0, le=WAIT_SECONDS_MAX)]
_Worker = Annotated[
    Name, Meta(description="The worker's id, 1 to 255 bytes, which it chooses itself.")
]
_Attempt = Annotated[int, ATTEMPT, Meta(description="The number of the attempt, from the claim.")]
_JobId = Annotated[int, JOB_ID, Meta(description="The job's id, from the claim.")]
_Result = Annotated[
    Raw,
    Meta(
        description="The result: any JSON value, at most 1 MiB as compact JSON and 32 levels deep.",
        extra_json_schema={"default": None},
    ),
]
_ERROR: Final = Meta(
    description="The error: a text, or an object with type, message and traceback; any other JSON "
    "value is stored unchanged. At most 1 MiB as compact JSON."
)
_MayRetry = Annotated[
    bool,
    Meta(description="true: another attempt may follow. false: the job fails."),
]


_RetryInSeconds = Annotated[
    Annotated[
        float, Meta(extra_json_schema={"minimum": 0, "maximum": validation.RETRY_IN_SECONDS_MAX})
    ]
    | None,
    Meta(
        description="How long to wait before the next attempt, 0 to 31622400 seconds. null: a "
        "pause that grows with each failure."
    ),
]


class BatchEntry(Struct, forbid_unknown_fields=True):
    """An earlier entry of the same batch."""

    entry: Annotated[
        int, Meta(description="The number of the entry in `jobs`, from 0.", ge=0, le=BATCH_MAX - 1)
    ]


class Submission(Struct, forbid_unknown_fields=True, kw_only=True):
    """A job to run."""

    advice: ClassVar[Mapping[str, str]] = {
        "kind": "kind is missing: name the handler that runs the job; built in for trying out are "
        "echo, sleep and fail."
    }

    user_id: Annotated[
        Name,
        Meta(
            description="The user who owns the job, 1 to 255 bytes. Limits and turns are by user."
        ),
    ]
    payload: Annotated[
        Raw,
        Meta(
            description="The handler's input: any JSON value, at most 1 MiB as compact JSON and "
            "32 levels deep."
        ),
    ]
    kind: Annotated[
        Name, Meta(description="The name of the handler that runs the job, 1 to 255 bytes.")
    ]
    idempotency_key: Annotated[
        Name | None,
        Meta(
            description="1 to 255 bytes. A submission that the user sends again with the same key "
            "returns the same job. The header Idempotency-Key has the same effect. null: a digest "
            "of kind, payload, run_at, expires_at, timeout_seconds, max_attempts, retry, priority, "
            "resources, after, after_failure and callback, which identifies the job until it has "
            "failed or was cancelled."
        ),
    ] = None
    deduplicate: Annotated[
        bool | None,
        Meta(
            description="Without a key. false: this is a new job, whatever was submitted before. "
            "null: the server's FAIRLOG_DEDUPLICATE, by default true."
        ),
    ] = None
    run_at: Annotated[
        Time | None,
        Meta(description="The job does not start before this time. null or past: no delay."),
    ] = None
    expires_at: Annotated[
        Time | None,
        Meta(
            description="The job is cancelled if it has not started by this time, which "
            "must be later than run_at. null: never."
        ),
    ] = None
    timeout_seconds: Annotated[
        TimeoutSeconds | None,
        Meta(
            description="The longest run of one attempt in seconds, above 0 and at most 604800. "
            "null: the server's FAIRLOG_TIMEOUT_SECONDS."
        ),
    ] = None
    max_attempts: Annotated[
        MaxAttempts | None,
        Meta(
            description="How many attempts may fail before the job fails, 1 to 1000. null: the "
            "server's FAIRLOG_MAX_ATTEMPTS."
        ),
    ] = None
    retry: Annotated[
        RetryFields | None,
        Meta(
            description="When another attempt follows a failed one. null: as the kind says, else "
            "the server's FAIRLOG_RETRY_… settings."
        ),
    ] = None
    priority: Annotated[
        Priority,
        Meta(
            description="The order among the user's own jobs, -1000 to 1000: a higher one starts "
            "sooner. It does not affect other users."
        ),
    ] = 0
    resources: Annotated[
        tuple[Name, ...],
        Meta(
            description="At most three names of what the job uses, like shopify:acme, of 1 to 255 "
            "bytes each. Limits that are set for a resource, or for a prefix and *, hold for all "
            "jobs that name it. A name must not end with *.",
            extra_json_schema={"maxItems": RESOURCES_MAX},
        ),
    ] = ()
    after: Annotated[
        tuple[Annotated[int, JOB_ID] | BatchEntry, ...],
        Meta(
            description="At most 1000 jobs, by id, that this one comes after: it waits until all "
            'of them have ended. In a batch, {"entry": 0} is an earlier entry of it.',
            extra_json_schema={"maxItems": AFTER_MAX},
        ),
    ] = ()
    after_failure: Annotated[
        Literal["fail", "run", "cancel"] | None,
        Meta(
            description="What becomes of the job if one that it comes after fails or is "
            "cancelled. fail: it fails, too. cancel: it is cancelled. run: it runs all the same, "
            "once all have ended. null: fail."
        ),
    ] = None

    callback: Annotated[
        CallbackTarget | None,
        Meta(
            description="A URL to which a signed message is sent when the job ends. null: only "
            "the endpoints that an operator has set are told."
        ),
    ] = None

    def entries_before(self, number: int) -> tuple[int, ...]:
        """Return the entries of its batch that it comes after; `number` is its own. Raises
        `InvalidInput`.
        """
        if not self.after:
            return ()
        entries = sorted({one.entry for one in self.after if isinstance(one, BatchEntry)})
        if entries and entries[-1] >= number:
            raise InvalidInput(
                f"after names entry {entries[-1]}, which does not come before this one, entry "
                f"{number}; put it first."
            )
        return tuple(entries)

    def to_command(self, header_key: str | None = None, *, is_in_batch: bool = False) -> SubmitJob:
        """Validate the fields. `header_key` is the unquoted Idempotency-Key header, if sent. In a
        batch, the entries that it comes after are left out: see `entries_before`.
        """
        key = self.idempotency_key
        if header_key is not None and key is not None and header_key != key:
            raise InvalidInput(
                "The Idempotency-Key header and the field idempotency_key differ; send only one."
            )
        key = header_key if key is None else key
        return validation.submission(
            SubmitJob(
                user_id=validation.user_id(self.user_id),
                kind=validation.kind(self.kind),
                payload=body_of_json(bytes(self.payload), "payload"),
                idempotency_key=None if key is None else validation.idempotency_key(key),
                deduplicate=self.deduplicate,
                run_at=_optional(self.run_at, "run_at"),
                expires_at=_optional(self.expires_at, "expires_at"),
                timeout_seconds=None
                if self.timeout_seconds is None
                else validation.timeout_seconds(self.timeout_seconds),
                max_attempts=self.max_attempts,
                retry=None if self.retry is None else self.retry.to_policy(),
                priority=self.priority,
                resources=validation.resources(self.resources),
                after=self._parents(is_in_batch=is_in_batch) if self.after else (),
                after_failure=validation.after_failure(
                    self.after_failure, has_parents=bool(self.after)
                ),
                callback=None
                if self.callback is None
                else validation.callback_url(self.callback.url),
            )
        )

    def _parents(self, *, is_in_batch: bool) -> tuple[JobId, ...]:
        """Check the jobs that it comes after, without the entries of its batch, and return them."""
        parents = [one for one in self.after if not isinstance(one, BatchEntry)]
        if len(parents) < len(self.after) and not is_in_batch:
            raise InvalidInput("after names an entry of a batch, and this is none; name job ids.")
        if len(self.after) > AFTER_MAX:
            validation.after(range(len(self.after)))
        return validation.after(parents)


class SubmissionBatch(RequestBatch, forbid_unknown_fields=True):
    """1 to 1,000 jobs to run."""

    entry: ClassVar[type[Struct]] = Submission

    def check(self) -> None:
        """Check the number of entries. Raises `InvalidInput`."""
        if not 1 <= len(self.jobs) <= BATCH_MAX:
            raise InvalidInput(f"jobs has 1 to {BATCH_MAX} entries; this has {len(self.jobs)}.")


class BulkRetry(Struct, forbid_unknown_fields=True, kw_only=True):
    """Conditions that select jobs to retry. A job must meet all of them."""

    user_id: Annotated[Name | None, Meta(description="Only jobs of this user. null: of any.")] = (
        None
    )
    kind: Annotated[Name | None, Meta(description="Only jobs of this kind. null: of any.")] = None
    error_contains: Annotated[
        Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": TEXT_MAX})] | None,
        Meta(
            description="A text of 1 to 1000 characters that occurs in a text of the job's latest "
            "error, case-sensitive. null: any error."
        ),
    ] = None
    state: Annotated[Literal["failed", "cancelled"], Meta(description="The state of the jobs.")] = (
        "failed"
    )
    limit: Annotated[
        PageLimit, Meta(description="The maximum number of jobs that one call retries.")
    ] = 100
    cursor: Annotated[
        str | None,
        Meta(description="The `next` of the previous call. null: begin with the newest job."),
    ] = None

    def to_filter(self) -> RetryFilter:
        """Validate the fields. Raises `InvalidInput`."""
        if self.error_contains is not None and not 1 <= len(self.error_contains) <= TEXT_MAX:
            raise InvalidInput(f"error_contains must have 1 to {TEXT_MAX} characters.")
        return RetryFilter(
            user_id=None if self.user_id is None else validation.user_id(self.user_id),
            kind=None if self.kind is None else validation.kind(self.kind),
            error_contains=self.error_contains,
            state=State(self.state),
            jobs_max=self.limit,
        )


class ClaimRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A worker's request for jobs."""

    worker: _Worker
    max: Annotated[
        Annotated[int, Meta(ge=0, le=BATCH_MAX)],
        Meta(
            description="The maximum number of jobs. Fewer may be claimed although more wait. "
            "0: none but those of an earlier claim with the same claim_id, without a wait."
        ),
    ] = 1
    kinds: Annotated[
        list[Name] | None,
        Meta(description="Only jobs of these 1 to 1000 kinds. null: of any kind."),
    ] = None
    wait_seconds: Annotated[
        _WaitSeconds, Meta(description="The longest time in seconds to wait for the first job.")
    ] = 0.0
    claim_id: Annotated[
        Name | None,
        Meta(
            description="The id of this claim, 1 to 255 bytes. Sent again within ten minutes, "
            "it returns the same jobs or fewer, never others. null: the claim cannot be repeated."
        ),
    ] = None
    begins: Annotated[
        Annotated[int, Meta(ge=0, le=BATCH_MAX)] | None,
        Meta(
            description="How many of the jobs start at once; a heartbeat reports `started` for "
            "each of the others. null: all."
        ),
    ] = None

    def to_command(self) -> ClaimJobs:
        if self.kinds is not None and not 1 <= len(self.kinds) <= BATCH_MAX:
            raise InvalidInput(
                f"kinds must have 1 to {BATCH_MAX} entries; leave it out for any kind."
            )
        if self.max == 0 and self.claim_id is None:
            raise InvalidInput("max is 0, which needs the claim_id of an earlier claim.")
        return ClaimJobs(
            worker=validation.worker_id(self.worker),
            max_jobs=self.max,
            kinds=None if self.kinds is None else _kinds(self.kinds),
            claim_id=None if self.claim_id is None else validation.claim_id(self.claim_id),
            begins=self.begins,
        )


class HeldJob(Struct, forbid_unknown_fields=True):
    """A job that a worker holds."""

    id: _JobId
    attempt: _Attempt
    started: Annotated[
        bool | None,
        Meta(description="true: its handler has started. null: as recorded in the log."),
    ] = None

    @property
    def key(self) -> tuple[JobId, int]:
        """The job and the attempt. Raises `InvalidInput`."""
        return validation.job_id(self.id), validation.attempt(self.attempt)


class ReportedProgress(Struct, forbid_unknown_fields=True):
    """A handler's report of how far it is."""

    fraction: Annotated[
        float, Meta(description="The part of the work that is done, 0 to 1.", ge=0, le=1)
    ]
    message: Annotated[
        str,
        Meta(
            description="What it is doing, at most 500 characters.",
            max_length=validation.PROGRESS_CHARACTERS_MAX,
        ),
    ] = ""


class RunningJob(HeldJob, forbid_unknown_fields=True):
    """A job that a worker holds, and its progress."""

    progress: Annotated[
        ReportedProgress | None,
        Meta(
            description="What its handler reports. One report in two seconds is recorded. null: "
            "nothing new."
        ),
    ] = None

    def to_progress(self) -> Progress | None:
        """Return the report; None if there is none. Raises `InvalidInput`."""
        if self.progress is None:
            return None
        message = self.progress.message
        body = body_of(message, "message") if message else None
        return Progress(*self.key, self.progress.fraction, body)


class ReturnedJob(HeldJob, forbid_unknown_fields=True):
    """A job that a worker returns before its outcome is known."""

    suspect: Annotated[
        bool,
        Meta(
            description="true: the job may have ended the process that ran it; its next attempt "
            "runs alone."
        ),
    ] = False


class ReturnedJobs(Struct, forbid_unknown_fields=True):
    """Jobs that a worker returns, at most 1,000."""

    worker: _Worker
    jobs: Annotated[list[ReturnedJob], Meta(description="The jobs to return, at most 1000.")]

    def to_returns(self) -> list[ReturnJob]:
        """Validate the fields. Raises `InvalidInput`."""
        _check_count(self.jobs)
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


class TakeBack(Struct, forbid_unknown_fields=True):
    """The jobs that an operator takes back. With both fields, both must hold."""

    worker: Annotated[
        Name | None, Meta(description="The worker that holds them. Left out or null: any.")
    ] = None
    key: Annotated[
        Name | None,
        Meta(description="The API key of the worker that holds them. Left out or null: any."),
    ] = None

    def to_names(self) -> tuple[WorkerId | None, KeyName | None]:
        """Validate the fields. Raises `InvalidInput`."""
        if self.worker is None and self.key is None:
            raise InvalidInput("Say whose jobs to take back: of a worker, of a key, or of both.")
        return (
            None if self.worker is None else validation.worker_id(self.worker),
            None if self.key is None else validation.key_name(self.key),
        )


class Heartbeat(Struct, forbid_unknown_fields=True):
    """A worker's report that it still runs its jobs, at most 1,000."""

    worker: _Worker
    jobs: Annotated[
        list[RunningJob], Meta(description="All jobs that the worker holds, at most 1000.")
    ]
    wait_seconds: Annotated[
        _WaitSeconds,
        Meta(
            description="The longest time in seconds to wait for one of the jobs to be cancelled."
        ),
    ] = 0.0

    def to_command(self) -> ExtendLeases:
        _check_count(self.jobs)
        return ExtendLeases(
            worker=validation.worker_id(self.worker),
            jobs=[job.key for job in self.jobs],
            begun=tuple(job.key for job in self.jobs if job.started),
            progress=tuple(
                report for job in self.jobs if (report := job.to_progress()) is not None
            ),
        )


class Completion(Struct, forbid_unknown_fields=True):
    """The outcome of an attempt that succeeded."""

    attempt: _Attempt
    result: _Result = field(default_factory=lambda: _NULL)

    def to_command(self, job_id: JobId) -> CompleteJob:
        return CompleteJob(
            job_id=job_id,
            attempt=validation.attempt(self.attempt),
            result=_result(self.result),
        )


class Failure(Struct, forbid_unknown_fields=True):
    """The outcome of an attempt that failed."""

    attempt: _Attempt
    error: Annotated[Raw, _ERROR]
    retry: _MayRetry = True
    retry_in_seconds: _RetryInSeconds = None

    def to_command(self, job_id: JobId) -> FailJob:
        seconds = self.retry_in_seconds
        return FailJob(
            job_id=job_id,
            attempt=validation.attempt(self.attempt),
            error=body_of_json(bytes(self.error), "error"),
            may_retry=self.retry,
            retry_in_seconds=None if seconds is None else validation.retry_in_seconds(seconds),
        )


class OutcomeOfJob(Struct, forbid_unknown_fields=True, kw_only=True):
    """The outcome of an attempt: a failure if it has `error`, else a success with `result`."""

    id: _JobId
    attempt: _Attempt
    result: _Result = field(default_factory=lambda: _NULL)
    error: Annotated[Raw | UnsetType, _ERROR] = UNSET
    retry: _MayRetry = True
    retry_in_seconds: _RetryInSeconds = None

    def to_command(self) -> CompleteJob | FailJob:
        job_id = validation.job_id(self.id)
        if self.error is UNSET:
            return Completion(self.attempt, self.result).to_command(job_id)
        failure = Failure(self.attempt, self.error, self.retry, self.retry_in_seconds)
        return failure.to_command(job_id)


class OutcomeBatch(RequestBatch, forbid_unknown_fields=True):
    """Outcomes of at most 1,000 jobs."""

    entry: ClassVar[type[Struct]] = OutcomeOfJob
    worker: _Worker

    def check(self) -> None:
        """Check the worker and the number of entries. Raises `InvalidInput`."""
        validation.worker_id(self.worker)
        _check_count(self.jobs)


def _optional(value: datetime | None, what: str) -> datetime | None:
    return None if value is None else validation.moment(value, what)


def _kinds(kinds: Sequence[str]) -> tuple[Kind, ...]:
    return tuple(sorted({validation.kind(kind) for kind in kinds}))


def _result(value: Raw) -> Body | None:
    text = bytes(value)
    return None if text == b"null" else body_of_json(text, "result")


def _check_count(jobs: Sequence[object]) -> None:
    if len(jobs) > BATCH_MAX:
        raise InvalidInput(f"jobs has at most {BATCH_MAX} entries; this has {len(jobs)}.")
