"""The legacy API: three routes of the system that Fairlog replaces, for the clients of that system.

Requests and answers use that system's fields and names of states.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_429_TOO_MANY_REQUESTS
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from domain.jobs.job import State
from domain.language.errors import RateLimited, UnknownJob
from domain.language.identifiers import POSITION_MAX, JobId, UserId
from domain.language.ranges import JOB_ID, NAME, Count, Name, Time
from entrypoints.http.access import key_of, sent_by
from entrypoints.http.jobs import SUBMISSION_BYTES_MAX
from entrypoints.http.parameters import JobIdInPath
from entrypoints.http.problems import headers_of, problem_of
from entrypoints.http.rate_limit_fields import rate_limit_fields
from entrypoints.http.requests import Submission
from entrypoints.http.strict_json import off_the_loop
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.pages import Included
from entrypoints.service.views import JobView

_KIND = "echo"
NO_JOB = 0  # the id in the answer to a refused submission
_RUNNING_MAX = 1000
_FAILED_MAX = 10
_RECENT_MAX = 20
_INCLUDED = Included(payload=True, result=True, error=False)
_STATES = {State.SCHEDULED: "queued", State.CANCELLED: "failed"}  # not in the legacy API


_State = Annotated[str, Meta(description="queued, running, done, failed or not_found.")]
_Result = Annotated[
    str | None, Meta(description="The result: a text as it is, or JSON. null: none.")
]
_ErrorMessage = Annotated[str | None, Meta(description="The error message. null: none.")]


class LegacySubmission(Struct, forbid_unknown_fields=True):
    """A text to submit for the kind `echo`."""

    user_id: Annotated[Name, Meta(description="The user who owns the job, 1 to 255 bytes.")]
    payload: Annotated[str, Meta(description="The text, at most 1 MiB as JSON.")]


class LegacyAnswer(Struct):
    """A job's state, or the reason why a submission was refused."""

    job_id: Annotated[
        int,
        Meta(description="The job's id, or the one asked for. 0: the submission was refused."),
    ]
    state: _State
    result: _Result = None
    error_message: _ErrorMessage = None
    idempotency_key: Annotated[str | None, Meta(description="The job's key, or null.")] = None
    is_duplicate: Annotated[bool, Meta(description="true: the job was submitted before.")] = False


class LegacyJob(Struct):
    """A job on the legacy dashboard. Times are UTC."""

    id: Annotated[JobId, JOB_ID, Meta(description="The job's id.")]
    user_id: Annotated[UserId, NAME, Meta(description="The user who owns the job.")]
    payload: Annotated[str, Meta(description="The payload: a text as it is, or JSON.")]
    idempotency_key: Annotated[str, Meta(description="The job's key.")]
    state: _State
    result: _Result
    error_message: _ErrorMessage
    last_served: Annotated[
        Time | None, Meta(description="The time when its latest attempt was claimed. null: never.")
    ]
    created_at: Annotated[Time, Meta(description="The time of its submission.")]
    updated_at: Annotated[Time, Meta(description="The time of its latest change.")]


class LegacyStats(Struct):
    """The numbers of jobs by state."""

    total_jobs: Annotated[Count, Meta(description="All jobs.")]
    queued_count: Annotated[Count, Meta(description="Jobs that wait, scheduled ones included.")]
    running_count: Annotated[Count, Meta(description="Jobs that run.")]
    done_count: Annotated[Count, Meta(description="Jobs that succeeded.")]
    failed_count: Annotated[Count, Meta(description="Jobs that failed or were cancelled.")]


class LegacyDashboard(Struct):
    """The numbers of jobs and the newest jobs."""

    stats: Annotated[LegacyStats, Meta(description="The numbers of jobs by state.")]
    running_jobs: Annotated[
        Sequence[LegacyJob], Meta(description="Running jobs, newest first, at most 1000.")
    ]
    failed_jobs: Annotated[
        Sequence[LegacyJob], Meta(description="Failed jobs, newest first, at most 10.")
    ]
    recent_jobs: Annotated[
        Sequence[LegacyJob], Meta(description="Jobs of any state, newest first, at most 20.")
    ]


class LegacyController(Controller):
    """Routes of the legacy API."""

    path = "/jobs"
    tags = ("legacy",)

    @post(
        "/submit_job",
        status_code=HTTP_200_OK,
        request_max_body_size=SUBMISSION_BYTES_MAX,
        responses={
            HTTP_429_TOO_MANY_REQUESTS: ResponseSpec(
                LegacyAnswer,
                description="A limit is used up, or too many requests with wrong API keys came.",
                generate_examples=False,
            )
        },
    )
    async def submit(
        self,
        data: JSONBody[LegacySubmission],
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
    ) -> Response[LegacyAnswer]:
        """Submit a text for the kind `echo`. The status is 429 if a rate limit refuses it."""
        submission = Submission(
            user_id=data.user_id,
            kind=_KIND,
            payload=Raw(msgspec.json.encode(data.payload)),
            deduplicate=True,
        )
        command = sent_by(request, await off_the_loop(len(data.payload), submission.to_command))
        try:
            submitted, view = await fairlog.submit(command)
        except RateLimited as error:
            refused = LegacyAnswer(NO_JOB, State.FAILED, error_message=str(error))
            return Response(
                refused, status_code=problem_of(error)["status"], headers=headers_of(error)
            )
        return Response(
            _answer(view, is_duplicate=submitted.is_duplicate),
            headers=rate_limit_fields(submitted.decision, submitted.decided_at),
        )

    @get("/job_status/{job_id:int}")
    async def status(
        self, job_id: JobIdInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> LegacyAnswer:
        """Return a job's state. An unknown job has the state `not_found`."""
        if job_id > POSITION_MAX:
            return _not_found(job_id)
        try:
            view = await fairlog.job(JobId(job_id), key_of(request))
            return _answer(view, is_duplicate=False)
        except UnknownJob:
            return _not_found(job_id)

    @get("/dashboard")
    async def dashboard(
        self, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> LegacyDashboard:
        """Return the numbers of jobs and the newest: running, failed (10) and of any state (20).

        A list is shorter if its payloads and results are large.
        """
        key = key_of(request)
        counts = await fairlog.counts(key)
        running, failed, recent = [
            await fairlog.newest_jobs(None, state, None, most, _INCLUDED, seen_by=key)
            for state, most in (
                (State.RUNNING, _RUNNING_MAX),
                (State.FAILED, _FAILED_MAX),
                (None, _RECENT_MAX),
            )
        ]
        return LegacyDashboard(
            LegacyStats(
                total_jobs=sum(counts.values()),
                queued_count=counts[State.QUEUED] + counts[State.SCHEDULED],
                running_count=counts[State.RUNNING],
                done_count=counts[State.DONE],
                failed_count=counts[State.FAILED] + counts[State.CANCELLED],
            ),
            [_job(view) for view in running.jobs],
            [_job(view) for view in failed.jobs],
            [_job(view) for view in recent.jobs],
        )


def _not_found(job_id: int) -> LegacyAnswer:
    return LegacyAnswer(job_id, "not_found", error_message="Job not found")


def _answer(view: JobView, *, is_duplicate: bool) -> LegacyAnswer:
    return LegacyAnswer(
        view.id,
        _state(view),
        _text(view.result),
        _error_message(view),
        view.idempotency_key,
        is_duplicate,
    )


def _job(view: JobView) -> LegacyJob:
    return LegacyJob(
        id=view.id,
        user_id=view.user_id,
        payload=_text(view.payload) or "",
        idempotency_key=view.idempotency_key,
        state=_state(view),
        result=_text(view.result),
        error_message=_error_message(view),
        last_served=view.started_at,
        created_at=view.submitted_at,
        updated_at=view.updated_at,
    )


def _state(view: JobView) -> str:
    return _STATES.get(view.state, view.state)


def _text(body: Raw | UnsetType) -> str | None:
    """Return a JSON string as its text, null as None, and any other value as JSON."""
    if body is UNSET:
        return None
    value = msgspec.json.decode(body)
    if value is None or isinstance(value, str):
        return value
    return bytes(body).decode()


def _error_message(view: JobView) -> str | None:
    if view.state is State.CANCELLED:
        return "cancelled"
    error = None if view.error is UNSET else msgspec.json.decode(view.error)
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return _text(view.error)
