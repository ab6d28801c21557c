"""Routes that submit, return, list, explain, cancel and retry jobs."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import replace

from domain.decisions.answers import Submitted
from domain.jobs.job import ENDED, State
from domain.language import validation
from domain.language.commands import CancelJob, SubmitJob
from domain.language.errors import (
    FairlogError,
    InvalidInput,
    LogUnavailable,
    NotAllowed,
    RateLimited,
    without_traceback,
)
from domain.language.identifiers import JobId
from entrypoints.http import parameters
from entrypoints.http.access import (
    access_of,
    count_change,
    held_open,
    key_of,
    require_still,
    sent_by,
)
from entrypoints.http.answers import JsonAnswer, encoded
from entrypoints.http.forwarding import prefix_of
from entrypoints.http.idempotency_key import TakesIdempotencyKey, idempotency_key_of
from entrypoints.http.paging import limit_of, page_cursor, position_of
from entrypoints.http.parameters import JobIdInPath
from entrypoints.http.problems import Problem, problem_of, refusal_answer
from entrypoints.http.rate_limit_fields import rate_limit_fields
from entrypoints.http.requests import TEXT_MAX, BulkRetry, Submission, SubmissionBatch
from entrypoints.http.strict_json import BYTES_ON_THE_LOOP_MAX, off_the_loop, read_json, size_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.http.waiting import end_wait_seconds, mark_waiting
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.pages import included_of
from entrypoints.service.views import EventPage, JobPage, JobView
from entrypoints.use_cases.bulk_retry import RetriedJobs, retry_jobs
from entrypoints.use_cases.explain import ExplanationView, explain_job
from entrypoints.use_cases.find_jobs import JobConditions, job_page
from entrypoints.use_cases.retries import retry as retry_job
from entrypoints.use_cases.time_travel import TimeTravel

SUBMISSION_BYTES_MAX = 8 * 1024 * 1024  # 1 MiB of payload may be six times as long if escaped
BATCH_BYTES_MAX = 16 * 1024 * 1024


class SubmissionOutcome(Struct, omit_defaults=True):
    """The answer to one submission of a batch."""

    status: Annotated[
        int, Meta(description="The HTTP status of this submission sent alone.", ge=200, le=599)
    ]
    job: Annotated[
        JobView | UnsetType, Meta(description="The job, if the submission was accepted.")
    ] = UNSET
    problem: Annotated[
        Problem | UnsetType,
        Meta(description="The reason if it was refused: problem details of RFC 9457."),
    ] = UNSET


class SubmissionOutcomes(Struct):
    """The answers to a batch."""

    jobs: Annotated[
        Sequence[SubmissionOutcome],
        Meta(description="One answer for each submission, in the same order."),
    ]


class JobController(Controller):
    """Routes for jobs."""

    path = "/v1/jobs"
    tags = ("jobs",)

    @post(
        status_code=HTTP_202_ACCEPTED,
        request_max_body_size=SUBMISSION_BYTES_MAX,
        operation_class=TakesIdempotencyKey,
        responses={
            HTTP_202_ACCEPTED: ResponseSpec(
                JobView, description="Accepted", generate_examples=False
            ),
            HTTP_200_OK: ResponseSpec(
                JobView,
                description="A job with this key was submitted before",
                generate_examples=False,
            ),
        },
    )
    async def submit(
        self,
        data: JSONBody[Submission],
        fairlog: NamedDependency[Fairlog],
        request: StrictRequest,
        wait_for_end: parameters.WaitForEnd = 0.0,
    ) -> JsonAnswer:
        """Submit a job. The same submission sent again returns the same job.

        With `wait_seconds`, the answer comes when the job has ended, and contains its result.
        """
        wait_seconds = end_wait_seconds(wait_for_end)
        key = idempotency_key_of(request)
        size = memoryview(data.payload).nbytes
        if size <= BYTES_ON_THE_LOOP_MAX:
            command = data.to_command(key)
        else:
            command = await off_the_loop(size, lambda: data.to_command(key))
        command = sent_by(request, command)
        # Only valid submissions are refused and counted. A cached refusal raises no exception: a
        # client may cause ten thousand per second.
        if known := fairlog.limiter.refuse(command.user_id, command.by):
            return refusal_answer(known)
        try:
            submitted, view = await fairlog.submit_to_log(command)
        except RateLimited as refused:
            return refusal_answer(refused)
        if wait_seconds and view.state not in ENDED:
            view = await _view_at_end(request, fairlog, view, wait_seconds)
        headers = {
            "Location": f"{prefix_of(request.scope)}/v1/jobs/{view.id}",
            **rate_limit_fields(submitted.decision, submitted.decided_at),
        }
        return JsonAnswer(_status(submitted), view, encoded(headers))

    @post("/batch", status_code=HTTP_200_OK, request_max_body_size=BATCH_BYTES_MAX)
    async def submit_batch(
        self,
        data: JSONBody[SubmissionBatch],
        fairlog: NamedDependency[Fairlog],
        request: StrictRequest,
    ) -> SubmissionOutcomes:
        """Submit up to 1,000 jobs. Each has its own answer, in order.

        An entry may come after earlier ones, `"after": [{"entry": 0}]`: it is submitted when they
        have been, and refused with 424 if one of them was.
        """
        data.check()
        after: dict[int, Sequence[int]] = {}
        commands = await off_the_loop(
            size_of(*data.jobs),
            lambda: [_command_or_error(request, *one, after) for one in enumerate(data.jobs)],
        )
        outcomes = await fairlog.submit_all(commands, after)
        return SubmissionOutcomes([_outcome(outcome) for outcome in outcomes])

    @get()
    async def newest(  # noqa: PLR0913 (a parameter for each condition)
        self,
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
        *,
        user_id: parameters.UserId = None,
        job_state: Annotated[
            State | None, QueryParameter(name="state", description="Only jobs in this state.")
        ] = None,
        kind: parameters.Kind = None,
        error_contains: Annotated[
            str | None,
            QueryParameter(
                description="Only jobs whose latest error has this text of 1 to 1000 characters, "
                "case-sensitive.",
                schema_extra={"min_length": 1, "max_length": TEXT_MAX},
            ),
        ] = None,
        since: Annotated[
            datetime | None,
            QueryParameter(description="Only jobs submitted at this time or later, as RFC 3339."),
        ] = None,
        until: Annotated[
            datetime | None,
            QueryParameter(description="Only jobs submitted before this time, as RFC 3339."),
        ] = None,
        idempotency_key: parameters.IdempotencyKey = None,
        cursor: parameters.Cursor = None,
        limit: parameters.Limit = 100,
        include: Annotated[
            str | None,
            QueryParameter(
                description="The bodies to return in full: payload, result, error, separated by "
                "commas. Left out: none, and errors are shortened."
            ),
        ] = None,
    ) -> JobPage:
        """List jobs, newest first. A page has fewer entries if they are large.

        With several conditions a page may be empty before the end: continue while `next` is set.
        """
        if error_contains is not None and not 1 <= len(error_contains) <= TEXT_MAX:
            raise InvalidInput(f"error_contains must have 1 to {TEXT_MAX} characters.")
        wanted = JobConditions(
            user_id=None if user_id is None else validation.user_id(user_id),
            state=job_state,
            kind=None if kind is None else validation.kind(kind),
            error_contains=error_contains,
            since=None if since is None else validation.moment(since, "since"),
            until=None if until is None else validation.moment(until, "until"),
            idempotency_key=None
            if idempotency_key is None
            else validation.idempotency_key(idempotency_key),
        )
        return await job_page(
            fairlog,
            wanted,
            page_cursor(cursor),
            limit_of(limit),
            included_of(include),
            seen_by=key_of(request),
        )

    @get("/{job_id:int}")
    async def find(
        self,
        job_id: JobIdInPath,
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
        as_of: parameters.AsOf = None,
        wait_for_end: parameters.WaitForEnd = 0.0,
    ) -> JobView:
        """Return a job, or its state at the position or time `as_of`.

        With `wait_seconds`, the answer comes when the job has ended, or after that time.
        """
        wanted = validation.job_id(job_id)
        wait_seconds = end_wait_seconds(wait_for_end)
        if as_of is None:
            if wait_seconds:
                return await _wait_for_end(request, fairlog, wanted, wait_seconds)
            return await fairlog.job(wanted, key_of(request))
        if wait_seconds:
            raise InvalidInput("as_of shows the past, where nothing can be waited for; send one.")
        then, past = validation.as_of(as_of), TimeTravel(fairlog)
        query = partial(past.job, job_id=wanted, as_of=then, seen_by=key_of(request))
        return await fairlog.read_long(fairlog.with_saved_rows(query))

    @get("/{job_id:int}/events")
    async def history(
        self,
        job_id: JobIdInPath,
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
        after: parameters.After = 0,
        limit: parameters.Limit = 100,
    ) -> EventPage:
        """Return all events of a job, in log order."""
        return await fairlog.history(
            validation.job_id(job_id), position_of(after), limit_of(limit), key_of(request)
        )

    @get("/{job_id:int}/explain")
    async def explain(
        self, job_id: JobIdInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> ExplanationView:
        """Explain in sentences and numbers why a job has not started, or how it ended."""
        return await explain_job(fairlog, validation.job_id(job_id), key_of(request))

    @post("/retry", status_code=HTTP_200_OK)
    async def retry_many(
        self,
        data: JSONBody[BulkRetry],
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
    ) -> RetriedJobs:
        """Retry the failed or cancelled jobs that match, newest first.

        Repeat the call with `next` as the cursor until `next` is null; a page may be empty before
        the end. Each job counts as a submission of its user. If the answer has
        `retry_after_seconds`, wait for that time before the next call.
        """
        return await retry_jobs(
            fairlog, data.to_filter(), page_cursor(data.cursor), access_of(request)
        )

    @post("/{job_id:int}/cancel", status_code=HTTP_200_OK)
    async def cancel(
        self, job_id: JobIdInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> JobView:
        """Cancel a job that has not ended. The worker of a running job is notified at once."""
        command = CancelJob(job_id=count_change(request, fairlog, job_id))
        return await fairlog.advance(sent_by(request, command))

    @post("/{job_id:int}/retry", status_code=HTTP_200_OK)
    async def retry(
        self, job_id: JobIdInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> JobView:
        """Retry a failed or cancelled job. It counts as a submission of its user."""
        return await retry_job(fairlog, count_change(request, fairlog, job_id), access_of(request))


async def _wait_for_end(
    request: StrictRequest, fairlog: Fairlog, job_id: JobId, seconds: float
) -> JobView:
    """Return the job when it has ended, or as it stands after `seconds`. Raises `UnknownJob`, and
    `KeyNotValid` if the caller's key has ended meanwhile.
    """
    mark_waiting(request)
    with held_open(request, fairlog) as ended:
        view = await fairlog.job_ends.wait(job_id, seconds, ended, key_of(request))
    require_still(request, fairlog)
    return view


async def _view_at_end(
    request: StrictRequest, fairlog: Fairlog, submitted: JobView, seconds: float
) -> JobView:
    """Return a submitted job like `_wait_for_end`, or as it was accepted if it cannot be read."""
    try:
        view = await _wait_for_end(request, fairlog, submitted.id, seconds)
    except LogUnavailable:
        return submitted
    return replace(view, is_duplicate=submitted.is_duplicate, duplicate=submitted.duplicate)


def _status(submitted: Submitted) -> int:
    return HTTP_200_OK if submitted.is_duplicate else HTTP_202_ACCEPTED


def _command_or_error(
    request: StrictRequest, number: int, one: Raw, after: dict[int, Sequence[int]]
) -> SubmitJob | FairlogError:
    """Return the command of an entry, and add to `after` the entries that it comes after."""
    try:
        submission: Submission = read_json(one, Submission)
        command = sent_by(request, submission.to_command(is_in_batch=True))
        if entries := submission.entries_before(number):
            after[number] = entries
        return command
    except (InvalidInput, NotAllowed) as error:
        return without_traceback(error)


def _outcome(outcome: tuple[Submitted, JobView] | Exception) -> SubmissionOutcome:
    if isinstance(outcome, Exception):
        problem = problem_of(outcome)
        return SubmissionOutcome(problem["status"], problem=problem)
    submitted, view = outcome
    return SubmissionOutcome(_status(submitted), job=view)
