"""Jobs: submit, look at, cancel and try again."""

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Controller, Request, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED
from msgspec import UNSET, Raw, Struct, UnsetType

from domain.decisions.decide import Submitted
from domain.jobs.job import State
from domain.language import validation
from domain.language.commands import CancelJob, SubmitJob
from domain.language.errors import InvalidInput, RateLimited, without_traceback
from entrypoints.http.answers import JsonAnswer, encoded
from entrypoints.http.idempotency_key import TakesIdempotencyKey, idempotency_key_of
from entrypoints.http.paging import limit_of, page_cursor, position_of
from entrypoints.http.problems import Problem, problem_of, refusal_answer
from entrypoints.http.rate_limit_fields import rate_limit_fields
from entrypoints.http.requests import BulkRetry, Submission, SubmissionBatch
from entrypoints.http.strict_json import BYTES_ON_THE_LOOP_MAX, off_the_loop, read_json, size_of
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.pages import included_of
from entrypoints.service.views import EventPage, JobPage, JobView
from entrypoints.use_cases.bulk_retry import RetriedJobs, retry_jobs
from entrypoints.use_cases.explain import ExplanationView, explain_job
from entrypoints.use_cases.retries import retry as retry_job
from entrypoints.use_cases.time_travel import TimeTravel

SUBMISSION_BYTES_MAX = 8 * 1024 * 1024  # a payload of 1 MiB may be six times as long in escapes
BATCH_BYTES_MAX = 16 * 1024 * 1024


class SubmissionOutcome(Struct, omit_defaults=True):
    """What became of one submission of a batch."""

    status: int  # as the answer to it alone would have had
    job: JobView | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class SubmissionOutcomes(Struct):
    jobs: Sequence[SubmissionOutcome]


class JobController(Controller):
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
                JobView, description="Known by its key", generate_examples=False
            ),
        },
    )
    async def submit(
        self,
        data: JSONBody[Submission],
        fairlog: NamedDependency[Fairlog],
        request: Request[Any, Any, Any],
    ) -> JsonAnswer:
        """Accept a job. Sent again with the same key, it changes nothing."""
        key = idempotency_key_of(request)
        size = memoryview(data.payload).nbytes
        if size <= BYTES_ON_THE_LOOP_MAX:
            command = data.to_command(key)
        else:
            command = await off_the_loop(size, lambda: data.to_command(key))
        # Only a valid submission is refused and counted. A refusal from the cache raises nothing,
        # since a client may cause ten thousand of them a second.
        if known := fairlog.limiter.refuse(command.user_id):
            return refusal_answer(known)
        try:
            submitted, view = await fairlog.submit_to_log(command)
        except RateLimited as refused:
            return refusal_answer(refused)
        headers = {
            "Location": f"/v1/jobs/{view.id}",
            **rate_limit_fields(submitted.decision, submitted.decided_at),
        }
        return JsonAnswer(_status(submitted), view, encoded(headers))

    @post("/batch", status_code=HTTP_200_OK, request_max_body_size=BATCH_BYTES_MAX)
    async def submit_batch(
        self, data: JSONBody[SubmissionBatch], fairlog: NamedDependency[Fairlog]
    ) -> SubmissionOutcomes:
        """Accept up to 1,000 jobs, with one outcome for each, in order."""
        data.check()
        commands = await off_the_loop(
            size_of(*data.jobs),
            lambda: [_command_or_error(one) for one in data.jobs],
        )
        outcomes = await fairlog.submit_all(commands)
        return SubmissionOutcomes([_outcome(outcome) for outcome in outcomes])

    @get()
    async def newest(
        self,
        fairlog: NamedDependency[Fairlog],
        user_id: FromQuery[str | None] = None,
        job_state: Annotated[State | None, QueryParameter(name="state")] = None,
        cursor: FromQuery[str | None] = None,
        limit: FromQuery[int] = 100,
        include: FromQuery[str | None] = None,
    ) -> JobPage:
        """Jobs, newest first.

        `include` names what else is told of each, separated by commas: `payload`, `result`, and
        `error`, which is told in short otherwise. A page with much of it ends early.
        """
        return await fairlog.newest_jobs(
            None if user_id is None else validation.user_id(user_id),
            job_state,
            page_cursor(cursor),
            limit_of(limit),
            included_of(include),
        )

    @get("/{job_id:int}")
    async def find(
        self,
        job_id: FromPath[int],
        fairlog: NamedDependency[Fairlog],
        as_of: FromQuery[str | None] = None,
    ) -> JobView:
        """One job as it stands; with `as_of`, a position or a time, as it stood then."""
        wanted = validation.job_id(job_id)
        if as_of is None:
            return await fairlog.job(wanted)
        then, past = validation.as_of(as_of), TimeTravel(fairlog)
        return await fairlog.read_long(lambda connection: past.job(connection, wanted, then))

    @get("/{job_id:int}/events")
    async def history(
        self,
        job_id: FromPath[int],
        fairlog: NamedDependency[Fairlog],
        after: FromQuery[int] = 0,
        limit: FromQuery[int] = 100,
    ) -> EventPage:
        """Everything that happened to a job, in log order."""
        return await fairlog.history(validation.job_id(job_id), position_of(after), limit_of(limit))

    @get("/{job_id:int}/explain")
    async def explain(
        self, job_id: FromPath[int], fairlog: NamedDependency[Fairlog]
    ) -> ExplanationView:
        """Why a job has not run yet, or what became of it, in words and numbers."""
        return await explain_job(fairlog, validation.job_id(job_id))

    @post("/retry", status_code=HTTP_200_OK)
    async def retry_many(
        self, data: JSONBody[BulkRetry], fairlog: NamedDependency[Fairlog]
    ) -> RetriedJobs:
        """Start again the failed or cancelled jobs that match, the newest first.

        Ask on with `next` as the cursor until it is null; a page may be empty before the end. Each
        job counts as a submission of its user: with `retry_after_seconds` ask on after that time.
        """
        return await retry_jobs(fairlog, data.to_filter(), page_cursor(data.cursor))

    @post("/{job_id:int}/cancel", status_code=HTTP_200_OK)
    async def cancel(self, job_id: FromPath[int], fairlog: NamedDependency[Fairlog]) -> JobView:
        """Stop a job that has not ended; its worker learns at its next heartbeat."""
        return await fairlog.advance(CancelJob(job_id=validation.job_id(job_id)))

    @post("/{job_id:int}/retry", status_code=HTTP_200_OK)
    async def retry(self, job_id: FromPath[int], fairlog: NamedDependency[Fairlog]) -> JobView:
        """Start a failed or cancelled job again; the attempt number goes on. Counts as a
        submission of its user.
        """
        return await retry_job(fairlog, validation.job_id(job_id))


def _status(submitted: Submitted) -> int:
    return HTTP_200_OK if submitted.is_duplicate else HTTP_202_ACCEPTED


def _command_or_error(one: Raw) -> SubmitJob | InvalidInput:
    try:
        submission: Submission = read_json(one, Submission)
        return submission.to_command()
    except InvalidInput as error:
        return without_traceback(error)


def _outcome(outcome: tuple[Submitted, JobView] | Exception) -> SubmissionOutcome:
    if isinstance(outcome, Exception):
        problem = problem_of(outcome)
        return SubmissionOutcome(problem["status"], problem=problem)
    submitted, view = outcome
    return SubmissionOutcome(_status(submitted), job=view)
