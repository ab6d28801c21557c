"""What workers call: claim, keep, end and give back jobs."""

from collections.abc import Sequence
from datetime import datetime

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, Struct, UnsetType

from domain import validation
from domain.commands import JobCommand
from domain.identifiers import JobId
from domain.life_cycle import Job, State
from entrypoints.http.jobs import BATCH_BYTES_MAX, SUBMISSION_BYTES_MAX
from entrypoints.http.problems import problem_of
from entrypoints.http.requests import ClaimRequest, Completion, Failure, Heartbeat, OutcomeBatch
from entrypoints.service import Fairlog
from entrypoints.views import ClaimedJob, JobView


class Claim(Struct, frozen=True):
    jobs: Sequence[ClaimedJob]


class LeasesView(Struct, frozen=True):
    lease_expires_at: datetime  # UTC; of the jobs that are still held
    lost: Sequence[JobId]  # no longer this worker's: stop working on them


class SettledJob(Struct, frozen=True, omit_defaults=True):
    """What became of one outcome of a batch."""

    id: JobId
    status: int  # 200, or as the answer to it alone would have had
    state: State | UnsetType = UNSET
    detail: str | UnsetType = UNSET  # why not


class SettledJobs(Struct, frozen=True):
    jobs: Sequence[SettledJob]


class ClaimController(Controller):
    path = "/v1/claims"
    tags = ["workers"]

    @post(status_code=HTTP_200_OK)
    async def claim(self, data: JSONBody[ClaimRequest], fairlog: NamedDependency[Fairlog]) -> Claim:
        """Take jobs in fair order, with a lease. Sent again with its claim_id: the same jobs."""
        return Claim(await fairlog.claim(data.to_command(), data.wait_seconds))

    @post("/heartbeat", status_code=HTTP_200_OK)
    async def heartbeat(
        self, data: JSONBody[Heartbeat], fairlog: NamedDependency[Fairlog]
    ) -> LeasesView:
        """Keep the leases of all jobs in hand."""
        held = await fairlog.extend(data.to_command())
        return LeasesView(held.lease_expires_at, held.lost)

    @post("/complete", status_code=HTTP_200_OK, request_max_body_size=BATCH_BYTES_MAX)
    async def settle(
        self, data: JSONBody[OutcomeBatch], fairlog: NamedDependency[Fairlog]
    ) -> SettledJobs:
        """Report outcomes, results and errors mixed; one answer for each, in order."""
        return await _settle(fairlog, data.to_commands())

    @post("/return", status_code=HTTP_200_OK)
    async def give_back(
        self, data: JSONBody[Heartbeat], fairlog: NamedDependency[Fairlog]
    ) -> SettledJobs:
        """Give jobs back unharmed: they are queued at once, and the attempt does not count."""
        return await _settle(fairlog, data.to_returns())


class OutcomeController(Controller):
    path = "/v1/jobs/{job_id:int}"
    tags = ["workers"]

    @post("/complete", status_code=HTTP_200_OK, request_max_body_size=SUBMISSION_BYTES_MAX)
    async def complete(
        self, job_id: FromPath[int], data: JSONBody[Completion], fairlog: NamedDependency[Fairlog]
    ) -> JobView:
        """End an attempt well. The same outcome again changes nothing."""
        return await fairlog.advance(data.to_command(validation.job_id(job_id)))

    @post("/fail", status_code=HTTP_200_OK, request_max_body_size=SUBMISSION_BYTES_MAX)
    async def fail(
        self, job_id: FromPath[int], data: JSONBody[Failure], fairlog: NamedDependency[Fairlog]
    ) -> JobView:
        """End an attempt badly; another follows while there are attempts left."""
        return await fairlog.advance(data.to_command(validation.job_id(job_id)))


async def _settle(fairlog: Fairlog, commands: Sequence[JobCommand]) -> SettledJobs:
    outcomes = await fairlog.settle(commands)
    return SettledJobs(
        [
            _settled(command.job_id, outcome)
            for command, outcome in zip(commands, outcomes, strict=True)
        ]
    )


def _settled(job_id: JobId, outcome: Job | Exception) -> SettledJob:
    if isinstance(outcome, Job):
        return SettledJob(job_id, HTTP_200_OK, state=outcome.state)
    problem = problem_of(outcome)
    return SettledJob(job_id, problem["status"], detail=problem["detail"])
