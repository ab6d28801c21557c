"""The worker inside a server process, which calls the service directly."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import assert_never

import structlog
from msgspec.structs import replace

from adapters.supervision import Supervisor, keep_running
from domain.language import validation
from domain.language.bodies import body_of, stored_body
from domain.language.commands import (
    ClaimJobs,
    CompleteJob,
    ExtendLeases,
    FailJob,
    JobCommand,
    Progress,
    ReturnJob,
)
from domain.language.errors import (
    FairlogError,
    InvalidInput,
    LogTooNew,
    LogUnavailable,
    QueueFull,
    Refusal,
)
from domain.language.identifiers import JobId, Kind, ServerId, WorkerId
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import ClaimedJob as ClaimedView
from fairlog_client.worker.execution import Executor
from fairlog_client.worker.job_source import (
    AttemptLost,
    SourceAway,
    SourceError,
    SourceRefused,
)
from fairlog_client.worker.outcomes import (
    AttemptKey,
    ClaimedJob,
    Completed,
    Failed,
    Outcome,
    ProgressReport,
    Returned,
)
from fairlog_client.worker.worker import Worker

_log = structlog.get_logger()


class EmbeddedSource:
    """A `JobSource` on the service of the same process.

    Its claims carry the server's id, so that its jobs are queued again when that server is known
    to be dead. With `delivers`, they are for callbacks, and else for all other jobs.
    """

    def __init__(
        self, fairlog: Fairlog, worker: WorkerId, server_id: ServerId, *, delivers: bool = False
    ) -> None:
        self._delivers = delivers
        self._fairlog = fairlog
        self._worker = worker
        self._server_id = server_id

    @property
    def lease_seconds(self) -> float:
        return self._fairlog.policy.lease_seconds

    async def claim(
        self, max_jobs: int, kinds: Sequence[str], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        command = self._command(max_jobs, kinds, claim_id, begins)
        with _translated():
            jobs = [_claimed(job) for job in await self._fairlog.claim(command, wait_seconds)]
        # No code of users runs with a delivery, so none can have killed the server.
        return [replace(job, alone=False) for job in jobs] if self._delivers else jobs

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        # With no kinds, a claim returns what it returned before and nothing new.
        with _translated():
            claimed = await self._fairlog.claim(self._command(1, (), claim_id))
            return [_claimed(job) for job in claimed]

    async def heartbeat(
        self,
        held: Sequence[AttemptKey],
        begun: Sequence[AttemptKey],
        progress: Mapping[AttemptKey, ProgressReport],
    ) -> Sequence[AttemptKey]:
        command = ExtendLeases(
            worker=self._worker,
            jobs=_keys(held),
            begun=_keys(begun),
            progress=tuple(_progress(key, one) for key, one in progress.items()),
        )
        with _translated():
            return (await self._fairlog.extend(command)).lost

    async def wait_for_cancellation(
        self, held: Sequence[AttemptKey], seconds: float
    ) -> Sequence[AttemptKey]:
        command = ExtendLeases(worker=self._worker, jobs=_keys(held))
        with _translated():
            return (await self._fairlog.extend(command, seconds)).lost

    async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        with _translated():
            answers = await self._fairlog.advance_all([_command_of(one) for one in outcomes])
        return [_source_error(one) if isinstance(one, Exception) else None for one in answers]

    def _command(
        self, max_jobs: int, kinds: Sequence[str], claim_id: str, begins: int = 0
    ) -> ClaimJobs:
        return ClaimJobs(
            worker=self._worker,
            max_jobs=max_jobs,
            kinds=tuple(map(Kind, kinds)),
            server=self._server_id,
            claim_id=claim_id,
            begins=begins,
            delivers=self._delivers,
        )


class EmbeddedWorker(Worker):
    """A worker in the process of the server `server_id`, which runs `concurrency` jobs at once."""

    def __init__(
        self,
        fairlog: Fairlog,
        executor: Executor,
        concurrency: int,
        server_id: ServerId,
        *,
        delivers: bool = False,
    ) -> None:
        """`delivers`: see `EmbeddedSource`."""
        name = validation.worker_id(f"{server_id}/{secrets.token_hex(6)}")
        super().__init__(
            EmbeddedSource(fairlog, name, server_id, delivers=delivers),
            executor,
            concurrency,
            keep_running=partial(_keep_running, fairlog.supervisor),
        )
        self._name = name
        self._served = {"kinds": sorted(executor.kinds), "concurrency": concurrency}
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        super().start()
        _log.info("worker_started", worker=self._name, **self._served)
        self._watch = asyncio.create_task(self._report_end(), name="worker-watch")

    async def _report_end(self) -> None:
        refused = await self.claims_end()
        if refused is not None:
            _log.error("worker_ended", worker=self._name, reason=str(refused))


async def _keep_running(
    supervisor: Supervisor, name: str, run: Callable[[], Awaitable[None]]
) -> None:
    await keep_running(supervisor.part(name), run, heals=True)


def _keys(keys: Sequence[AttemptKey]) -> tuple[tuple[JobId, int], ...]:
    return tuple((JobId(job_id), attempt) for job_id, attempt in keys)


def _progress(key: AttemptKey, report: ProgressReport) -> Progress:
    message = body_of(report.message, "message") if report.message else None
    return Progress(JobId(key[0]), key[1], report.fraction, message)


def _claimed(job: ClaimedView) -> ClaimedJob:
    return ClaimedJob(
        id=job.id,
        user_id=job.user_id,
        kind=job.kind,
        payload=job.payload,
        attempt=job.attempt,
        timeout_seconds=job.timeout_seconds,
        started=job.started,
        alone=job.alone,
    )


def _command_of(outcome: Outcome) -> JobCommand:
    job_id = JobId(outcome.job_id)
    match outcome:
        case Completed(result=result):
            body = None if result is None else stored_body(result)
            return CompleteJob(job_id=job_id, attempt=outcome.attempt, result=body)
        case Failed():
            return FailJob(
                job_id=job_id,
                attempt=outcome.attempt,
                error=stored_body(outcome.error),
                may_retry=outcome.may_retry,
                retry_in_seconds=outcome.retry_in_seconds,
            )
        case Returned():
            return ReturnJob(
                job_id=job_id,
                attempt=outcome.attempt,
                begun=outcome.begun,
                suspect=outcome.suspect,
            )
        case _:
            assert_never(outcome)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise the errors of the service as those of a job source."""
    try:
        yield
    except FairlogError as error:
        raise _source_error(error) from error


def _source_error(error: Exception) -> Exception:
    """Return the error that `JobSource` promises in place of one of the service."""
    match error:
        case LogUnavailable() | QueueFull():
            return SourceAway(str(error))
        case InvalidInput() | LogTooNew():
            return SourceRefused(str(error))
        case Refusal():
            return AttemptLost(str(error))
        case _:
            return SourceError(str(error))
