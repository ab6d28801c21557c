"""What workers call: claim, keep, end and give back jobs."""

from collections.abc import Sequence
from datetime import datetime

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, Raw, Struct, UnsetType

from domain.jobs.job import Job, State
from domain.language import validation
from domain.language.commands import JobCommand
from domain.language.errors import InvalidInput, without_traceback
from domain.language.identifiers import JobId
from entrypoints.http.jobs import BATCH_BYTES_MAX, SUBMISSION_BYTES_MAX
from entrypoints.http.problems import problem_of
from entrypoints.http.requests import (
    ClaimRequest,
    Completion,
    Failure,
    Heartbeat,
    OutcomeBatch,
    OutcomeOfJob,
    ReturnedJobs,
)
from entrypoints.http.strict_json import StrictRequest, hanging_up, off_the_loop, read_json, size_of
from entrypoints.http.waiting import waits_for_news
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import ClaimedJob, JobView


class Claim(Struct, frozen=True):
    jobs: Sequence[ClaimedJob]
    lease_seconds: int  # send heartbeats well before it is over


class LeasesView(Struct, frozen=True, omit_defaults=True):
    lease_expires_at: datetime  # UTC; of the jobs that are still held
    lost: Sequence[JobId]  # no longer this worker's: stop working on them
    # The same, where there are any; a job may be held in another attempt.
    lost_attempts: Sequence["LostAttempt"] | UnsetType = UNSET


class LostAttempt(Struct, frozen=True):
    id: JobId
    attempt: int


class SettledJob(Struct, frozen=True, omit_defaults=True):
    """What became of one outcome of a batch."""

    id: int | None  # as it was sent; null where it could not be read
    status: int  # 200, or as the answer to it alone would have had
    state: State | UnsetType = UNSET
    detail: str | UnsetType = UNSET  # why not


class SettledJobs(Struct, frozen=True):
    jobs: Sequence[SettledJob]


class ClaimController(Controller):
    path = "/v1/claims"
    tags = ("workers",)

    @post(status_code=HTTP_200_OK)
    async def claim(
        self,
        request: StrictRequest,
        data: JSONBody[ClaimRequest],
        fairlog: NamedDependency[Fairlog],
    ) -> Claim:
        """Take jobs in fair order, with a lease.

        Sent again with its claim_id within ten minutes: the same jobs or fewer, never others.
        """
        command = data.to_command()
        if data.wait_seconds > 0:
            waits_for_news(request)
        with hanging_up(request) as gone:
            jobs = await fairlog.claim(command, data.wait_seconds, gone)
        return Claim(jobs, fairlog.policy.lease_seconds)

    @post("/heartbeat", status_code=HTTP_200_OK)
    async def heartbeat(
        self,
        request: StrictRequest,
        data: JSONBody[Heartbeat],
        fairlog: NamedDependency[Fairlog],
    ) -> LeasesView:
        """Keep the leases of all jobs in hand; with `wait_seconds`, wait for one to be cancelled.

        What is lost keeps its place under a cap while it is named, and until it is returned.
        """
        command = data.to_command()
        if data.wait_seconds > 0:
            waits_for_news(request)
        with hanging_up(request) as gone:
            held = await fairlog.extend(command, data.wait_seconds, gone)
        return LeasesView(
            held.lease_expires_at,
            [job_id for job_id, _ in held.lost],
            [LostAttempt(job_id, attempt) for job_id, attempt in held.lost] or UNSET,
        )

    @post("/complete", status_code=HTTP_200_OK, request_max_body_size=BATCH_BYTES_MAX)
    async def settle(
        self, data: JSONBody[OutcomeBatch], fairlog: NamedDependency[Fairlog]
    ) -> SettledJobs:
        """Report outcomes, results and errors mixed; one answer for each, in order."""
        data.check()
        entries = await off_the_loop(size_of(*data.jobs), lambda: [_read(one) for one in data.jobs])
        return await _settle(fairlog, entries)

    @post("/return", status_code=HTTP_200_OK)
    async def give_back(
        self, data: JSONBody[ReturnedJobs], fairlog: NamedDependency[Fairlog]
    ) -> SettledJobs:
        """Give jobs back unharmed: they are queued at once, and the attempt is no failure.

        Of a lost attempt it says that it has ended: the answer is 409, and its place is free.
        """
        return await _settle(fairlog, [(one.job_id, one) for one in data.to_returns()])


class OutcomeController(Controller):
    path = "/v1/jobs/{job_id:int}"
    tags = ("workers",)

    @post("/complete", status_code=HTTP_200_OK, request_max_body_size=SUBMISSION_BYTES_MAX)
    async def complete(
        self, job_id: FromPath[int], data: JSONBody[Completion], fairlog: NamedDependency[Fairlog]
    ) -> JobView:
        """End an attempt well. The same outcome again changes nothing."""
        wanted = validation.job_id(job_id)
        return await fairlog.advance(
            await off_the_loop(size_of(data.result), lambda: data.to_command(wanted))
        )

    @post("/fail", status_code=HTTP_200_OK, request_max_body_size=SUBMISSION_BYTES_MAX)
    async def fail(
        self, job_id: FromPath[int], data: JSONBody[Failure], fairlog: NamedDependency[Fairlog]
    ) -> JobView:
        """End an attempt badly; another follows while there are attempts left."""
        wanted = validation.job_id(job_id)
        return await fairlog.advance(
            await off_the_loop(size_of(data.error), lambda: data.to_command(wanted))
        )


_Entry = tuple[int | None, JobCommand | InvalidInput]  # with the id as it was sent


def _read(entry: Raw) -> _Entry:
    try:
        outcome: OutcomeOfJob = read_json(entry, OutcomeOfJob)
    except InvalidInput as error:
        return None, without_traceback(error)
    try:
        return outcome.id, outcome.to_command()
    except InvalidInput as error:
        return outcome.id, without_traceback(error)


async def _settle(fairlog: Fairlog, entries: Sequence[_Entry]) -> SettledJobs:
    outcomes = await fairlog.settle([command for _, command in entries])
    return SettledJobs(
        [_settled(job_id, outcome) for (job_id, _), outcome in zip(entries, outcomes, strict=True)]
    )


def _settled(job_id: int | None, outcome: Job | Exception) -> SettledJob:
    if isinstance(outcome, Job):
        return SettledJob(job_id, HTTP_200_OK, state=outcome.state)
    problem = problem_of(outcome)
    return SettledJob(job_id, problem["status"], detail=problem["detail"])
