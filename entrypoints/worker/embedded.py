"""The worker inside a server process, which calls the service directly."""

import asyncio
import secrets
from collections.abc import Sequence

import structlog

from domain.language import validation
from domain.language.commands import ClaimJobs, ExtendLeases
from domain.language.identifiers import Kind, ServerId, WorkerId
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import ClaimedJob
from entrypoints.worker.execution import Executor
from entrypoints.worker.job_source import AttemptKey, Outcome
from entrypoints.worker.worker import Worker

_log = structlog.get_logger()


class EmbeddedSource:
    """A `JobSource` on the service of the same process.

    Its claims carry the server's id, so that its jobs are queued again when that server is known
    to be dead.
    """

    def __init__(self, fairlog: Fairlog, worker: WorkerId, server_id: ServerId) -> None:
        self._fairlog = fairlog
        self._worker = worker
        self._server_id = server_id

    @property
    def lease_seconds(self) -> float:
        return self._fairlog.policy.lease_seconds

    async def claim(
        self, max_jobs: int, kinds: Sequence[Kind], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        command = self._command(max_jobs, kinds, claim_id, begins)
        return await self._fairlog.claim(command, wait_seconds)

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        # With no kinds, a claim returns what it returned before and nothing new.
        return await self._fairlog.claim(self._command(1, (), claim_id))

    async def heartbeat(
        self, held: Sequence[AttemptKey], begun: Sequence[AttemptKey]
    ) -> Sequence[AttemptKey]:
        command = ExtendLeases(worker=self._worker, jobs=held, begun=tuple(begun))
        return (await self._fairlog.extend(command)).lost

    async def wait_for_cancellation(
        self, held: Sequence[AttemptKey], seconds: float
    ) -> Sequence[AttemptKey]:
        command = ExtendLeases(worker=self._worker, jobs=held)
        return (await self._fairlog.extend(command, seconds)).lost

    async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        answers = await self._fairlog.advance_all(outcomes)
        return [one if isinstance(one, Exception) else None for one in answers]

    def _command(
        self, max_jobs: int, kinds: Sequence[Kind], claim_id: str, begins: int = 0
    ) -> ClaimJobs:
        return ClaimJobs(
            worker=self._worker,
            max_jobs=max_jobs,
            kinds=tuple(kinds),
            server=self._server_id,
            claim_id=claim_id,
            begins=begins,
        )


class EmbeddedWorker(Worker):
    """A worker in the process of the server `server_id`, which runs `concurrency` jobs at once."""

    def __init__(
        self, fairlog: Fairlog, executor: Executor, concurrency: int, server_id: ServerId
    ) -> None:
        name = validation.worker_id(f"{server_id}/{secrets.token_hex(6)}")
        super().__init__(
            EmbeddedSource(fairlog, name, server_id),
            executor,
            concurrency,
            supervisor=fairlog.supervisor,
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
