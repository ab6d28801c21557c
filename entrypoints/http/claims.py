"""Routes for workers: claim jobs, extend leases, report outcomes and return jobs."""

from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from domain.jobs.job import Job, State
from domain.language import validation
from domain.language.commands import JobCommand
from domain.language.errors import InvalidInput, without_traceback
from domain.language.identifiers import JobId
from domain.language.ranges import ATTEMPT, JOB_ID, Time
from entrypoints.http.access import access_of, held_open, limited_claim, require_still, sent_by
from entrypoints.http.jobs import BATCH_BYTES_MAX, SUBMISSION_BYTES_MAX
from entrypoints.http.parameters import JobIdInPath
from entrypoints.http.problems import problem_of
from entrypoints.http.requests import (
    ClaimRequest,
    Completion,
    Failure,
    Heartbeat,
    OutcomeBatch,
    OutcomeOfJob,
    ReturnedJobs,
    TakeBack,
)
from entrypoints.http.strict_json import off_the_loop, read_json, size_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.http.waiting import mark_waiting
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import ClaimedJob, JobView
from entrypoints.use_cases.take_back import take_back

_JobId = Annotated[JobId, JOB_ID]


class Claim(Struct, frozen=True):
    """The jobs that a claim has assigned to its worker."""

    jobs: Annotated[Sequence[ClaimedJob], Meta(description="The jobs, in fair order.")]
    lease_seconds: Annotated[
        int, Meta(description="The length of a lease in seconds; send heartbeats more often.", ge=1)
    ]


class LeasesView(Struct, frozen=True, omit_defaults=True):
    """The leases of a worker after a heartbeat."""

    lease_expires_at: Annotated[
        Time, Meta(description="The time when the leases of all jobs that are still held end.")
    ]
    lost: Annotated[
        Sequence[_JobId],
        Meta(description="Jobs that the worker no longer holds and should stop working on."),
    ]
    lost_attempts: Annotated[
        Sequence["LostAttempt"] | UnsetType,
        Meta(description="The same jobs with their attempts, if any: a job may be claimed again."),
    ] = UNSET


class LostAttempt(Struct, frozen=True):
    """An attempt that a worker no longer holds."""

    id: Annotated[_JobId, Meta(description="The job's id.")]
    attempt: Annotated[int, ATTEMPT, Meta(description="The number of the attempt.")]


class OutcomeAnswer(Struct, frozen=True, omit_defaults=True):
    """The answer to one entry of a batch."""

    id: Annotated[
        int | None, JOB_ID, Meta(description="The job's id as sent. null: the entry is unreadable.")
    ]
    status: Annotated[
        int, Meta(description="The HTTP status of this entry sent alone.", ge=200, le=599)
    ]
    state: Annotated[
        State | UnsetType, Meta(description="The job's state, if the status is 200.")
    ] = UNSET
    detail: Annotated[str | UnsetType, Meta(description="The reason if the entry was refused.")] = (
        UNSET
    )


class OutcomeAnswers(Struct, frozen=True):
    """The answers to a batch."""

    jobs: Annotated[
        Sequence[OutcomeAnswer], Meta(description="One answer for each entry, in the same order.")
    ]


class TakenBack(Struct, frozen=True):
    """The jobs that were queued again."""

    jobs: Annotated[Sequence[_JobId], Meta(description="Their ids, newest first.")]


class ClaimController(Controller):
    """Routes for claims."""

    path = "/v1/claims"
    tags = ("workers",)

    @post(status_code=HTTP_200_OK)
    async def claim(
        self,
        request: StrictRequest,
        data: JSONBody[ClaimRequest],
        fairlog: NamedDependency[Fairlog],
    ) -> Claim:
        """Claim jobs in fair order, each with a lease.

        Sent again with its claim_id within ten minutes, it returns the same jobs or fewer.
        """
        command = sent_by(request, limited_claim(request, data.to_command()))
        if data.wait_seconds > 0:
            mark_waiting(request)
        with held_open(request, fairlog) as ended:
            jobs = await fairlog.claim(command, data.wait_seconds, ended)
        require_still(request, fairlog)
        return Claim(jobs, fairlog.policy.lease_seconds)

    @post("/heartbeat", status_code=HTTP_200_OK)
    async def heartbeat(
        self,
        request: StrictRequest,
        data: JSONBody[Heartbeat],
        fairlog: NamedDependency[Fairlog],
    ) -> LeasesView:
        """Extend the leases of all jobs that the worker holds.

        With `wait_seconds`, wait until one of them is cancelled. A lost job counts towards limits
        of running jobs until the worker returns it or no longer sends it.
        """
        command = sent_by(request, data.to_command())
        if data.wait_seconds > 0:
            mark_waiting(request)
        with held_open(request, fairlog) as ended:
            held = await fairlog.extend(command, data.wait_seconds, ended)
        require_still(request, fairlog)
        return LeasesView(
            held.lease_expires_at,
            [job_id for job_id, _ in held.lost],
            [LostAttempt(job_id, attempt) for job_id, attempt in held.lost] or UNSET,
        )

    @post("/complete", status_code=HTTP_200_OK, request_max_body_size=BATCH_BYTES_MAX)
    async def report(
        self,
        request: StrictRequest,
        data: JSONBody[OutcomeBatch],
        fairlog: NamedDependency[Fairlog],
    ) -> OutcomeAnswers:
        """Report results and errors of many jobs. Each entry has its own answer, in order."""
        data.check()
        entries = await off_the_loop(size_of(*data.jobs), lambda: [_read(one) for one in data.jobs])
        return await _report(request, fairlog, entries)

    @post("/return", status_code=HTTP_200_OK)
    async def give_back(
        self,
        request: StrictRequest,
        data: JSONBody[ReturnedJobs],
        fairlog: NamedDependency[Fairlog],
    ) -> OutcomeAnswers:
        """Return jobs: they are queued at once, and their attempts do not count as failures.

        The answer for a lost attempt is 409; it no longer counts towards limits of running jobs.
        """
        return await _report(request, fairlog, [(one.job_id, one) for one in data.to_returns()])

    @post("/take-back", status_code=HTTP_200_OK)
    async def take_back(
        self, request: StrictRequest, data: JSONBody[TakeBack], fairlog: NamedDependency[Fairlog]
    ) -> TakenBack:
        """Take back all jobs that a worker or a key holds: they are queued again at once.

        Their attempts do not count as failures, and what the worker reports of them is refused.
        """
        worker, key = data.to_names()
        access = access_of(request)
        caller = None if access is None else access.caller
        return TakenBack(await take_back(fairlog, worker, key, caller))


class OutcomeController(Controller):
    """Routes for the outcome of one job."""

    path = "/v1/jobs/{job_id:int}"
    tags = ("workers",)

    @post("/complete", status_code=HTTP_200_OK, request_max_body_size=SUBMISSION_BYTES_MAX)
    async def complete(
        self,
        job_id: JobIdInPath,
        request: StrictRequest,
        data: JSONBody[Completion],
        fairlog: NamedDependency[Fairlog],
    ) -> JobView:
        """Report that an attempt succeeded. The same report sent again changes nothing."""
        wanted = validation.job_id(job_id)
        command = await off_the_loop(size_of(data.result), lambda: data.to_command(wanted))
        return await fairlog.advance(sent_by(request, command))

    @post("/fail", status_code=HTTP_200_OK, request_max_body_size=SUBMISSION_BYTES_MAX)
    async def fail(
        self,
        job_id: JobIdInPath,
        request: StrictRequest,
        data: JSONBody[Failure],
        fairlog: NamedDependency[Fairlog],
    ) -> JobView:
        """Report that an attempt failed. Another follows if attempts remain."""
        wanted = validation.job_id(job_id)
        command = await off_the_loop(size_of(data.error), lambda: data.to_command(wanted))
        return await fairlog.advance(sent_by(request, command))


_Entry = tuple[int | None, JobCommand | InvalidInput]  # the id as sent, None if unreadable


def _read(entry: Raw) -> _Entry:
    try:
        outcome: OutcomeOfJob = read_json(entry, OutcomeOfJob)
    except InvalidInput as error:
        return None, without_traceback(error)
    try:
        return outcome.id, outcome.to_command()
    except InvalidInput as error:
        return outcome.id, without_traceback(error)


async def _report(
    request: StrictRequest, fairlog: Fairlog, entries: Sequence[_Entry]
) -> OutcomeAnswers:
    outcomes = await fairlog.advance_all(
        [
            command if isinstance(command, InvalidInput) else sent_by(request, command)
            for _, command in entries
        ]
    )
    return OutcomeAnswers(
        [
            _answer_of(job_id, outcome)
            for (job_id, _), outcome in zip(entries, outcomes, strict=True)
        ]
    )


def _answer_of(job_id: int | None, outcome: Job | Exception) -> OutcomeAnswer:
    if isinstance(outcome, Job):
        return OutcomeAnswer(job_id, HTTP_200_OK, state=outcome.state)
    problem = problem_of(outcome)
    return OutcomeAnswer(job_id, problem["status"], detail=problem["detail"])
