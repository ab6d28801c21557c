"""The three calls of the system that Fairlog replaces, for clients that stay as they are.

Their shapes are its; what it kept as states here and there is told in its words.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, Raw, Struct, UnsetType

from domain.jobs.job import State
from domain.language.errors import RateLimited, UnknownJob
from domain.language.identifiers import POSITION_MAX, JobId, UserId
from entrypoints.http.jobs import SUBMISSION_BYTES_MAX
from entrypoints.http.problems import headers_of, problem_of
from entrypoints.http.rate_limit_fields import rate_limit_fields
from entrypoints.http.requests import Submission
from entrypoints.http.strict_json import off_the_loop
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.pages import Included
from entrypoints.service.views import JobView

NO_JOB = 0  # the id in the answer to a refused submission
_RUNNING_MAX = 1000
_FAILED_MAX = 10
_RECENT_MAX = 20
_INCLUDED = Included(payload=True, result=True, error=False)
_STATES = {State.SCHEDULED: "queued", State.CANCELLED: "failed"}  # the original had neither


class OriginalSubmission(Struct, forbid_unknown_fields=True):
    user_id: str
    payload: str


class OriginalAnswer(Struct):
    job_id: int
    state: str
    result: str | None = None
    error_message: str | None = None
    idempotency_key: str | None = None
    is_duplicate: bool = False


class OriginalJob(Struct):
    id: JobId
    user_id: UserId
    payload: str
    idempotency_key: str
    state: str
    result: str | None
    error_message: str | None
    last_served: datetime | None
    created_at: datetime
    updated_at: datetime


class OriginalStats(Struct):
    total_jobs: int
    queued_count: int
    running_count: int
    done_count: int
    failed_count: int


class OriginalDashboard(Struct):
    stats: OriginalStats
    running_jobs: Sequence[OriginalJob]
    failed_jobs: Sequence[OriginalJob]
    recent_jobs: Sequence[OriginalJob]


class OriginalController(Controller):
    path = "/jobs"
    tags = ("original",)

    @post("/submit_job", status_code=HTTP_200_OK, request_max_body_size=SUBMISSION_BYTES_MAX)
    async def submit(
        self, data: JSONBody[OriginalSubmission], fairlog: NamedDependency[Fairlog]
    ) -> Response[OriginalAnswer]:
        """Submit a text for the kind `echo`. Over a limit: 429, in the same shape."""
        submission = Submission(
            user_id=data.user_id, payload=Raw(msgspec.json.encode(data.payload))
        )
        command = await off_the_loop(len(data.payload), submission.to_command)
        try:
            submitted, view = await fairlog.submit(command)
        except RateLimited as error:
            refused = OriginalAnswer(NO_JOB, State.FAILED, error_message=str(error))
            return Response(
                refused, status_code=problem_of(error)["status"], headers=headers_of(error)
            )
        return Response(
            _answer(view, is_duplicate=submitted.is_duplicate),
            headers=rate_limit_fields(submitted.decision, submitted.decided_at),
        )

    @get("/job_status/{job_id:int}")
    async def status(
        self, job_id: FromPath[int], fairlog: NamedDependency[Fairlog]
    ) -> OriginalAnswer:
        """One job; an unknown one is the state `not_found`."""
        if job_id > POSITION_MAX:
            return _not_found(job_id)
        try:
            return _answer(await fairlog.job(JobId(job_id)), is_duplicate=False)
        except UnknownJob:
            return _not_found(job_id)

    @get("/dashboard")
    async def dashboard(self, fairlog: NamedDependency[Fairlog]) -> OriginalDashboard:
        """Counts, and the newest jobs: running, failed (at most 10) and of any state (20).

        There are fewer of each where their payloads and results are large.
        """
        counts = await fairlog.read(fairlog.jobs.counts)
        running = await fairlog.newest_jobs(None, State.RUNNING, None, _RUNNING_MAX, _INCLUDED)
        failed = await fairlog.newest_jobs(None, State.FAILED, None, _FAILED_MAX, _INCLUDED)
        recent = await fairlog.newest_jobs(None, None, None, _RECENT_MAX, _INCLUDED)
        return OriginalDashboard(
            OriginalStats(
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


def _not_found(job_id: int) -> OriginalAnswer:
    return OriginalAnswer(job_id, "not_found", error_message="Job not found")


def _answer(view: JobView, *, is_duplicate: bool) -> OriginalAnswer:
    return OriginalAnswer(
        view.id,
        _state(view),
        _text(view.result),
        _error_message(view),
        view.idempotency_key,
        is_duplicate,
    )


def _job(view: JobView) -> OriginalJob:
    return OriginalJob(
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
    """A JSON string as its text, null as None, anything else as JSON."""
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
