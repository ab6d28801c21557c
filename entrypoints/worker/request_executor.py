"""Runs jobs by requests that the server itself sends: a task for each.

For the worker it is an executor like the pool of handler processes, so claims, leases, heartbeats,
time-outs and cancellations are those of every worker.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from adapters.outgoing.errors import SendError
from fairlog_client.worker.error_bodies import error_body, error_of
from fairlog_client.worker.execution import Execution, ProgressSink, RunResult, given_up
from fairlog_client.worker.outcomes import ClaimedJob

SUCCESS: Final = range(200, 300)  # of statuses
_log = structlog.get_logger()


class RequestExecutor(ABC):
    """An `Executor` that sends a request for each job, up to `slots` at once. It runs no code of
    users.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.able = asyncio.Event()
        self._tasks: dict[Execution, asyncio.Task[None]] = {}

    @property
    @abstractmethod
    def kinds(self) -> Mapping[str, float | None]:
        """See `Executor`."""

    @abstractmethod
    async def send(self, job: ClaimedJob) -> RunResult:
        """Send the request, and return what its answer means. Raises `SendError`."""

    @property
    def free(self) -> int:
        return max(0, self.slots - len(self._tasks))

    def start(self) -> None:
        self.able.set()

    def execute(
        self, job: ClaimedJob, began: Callable[[], None], progressed: ProgressSink
    ) -> Execution:
        execution = Execution(job, began, progressed)
        task = asyncio.create_task(self._run(execution), name=f"request-{job.id}")
        self._tasks[execution] = task
        task.add_done_callback(lambda _: self._ended(execution))
        return execution

    def cancel(self, execution: Execution) -> None:
        """Close the connection of a job's request."""
        if (task := self._tasks.get(execution)) is not None:
            task.cancel()

    def give_up(self, execution: Execution, reason: str) -> None:
        self.cancel(execution)
        execution.end(given_up(reason))

    async def stop(self) -> None:
        """Close the connections of all requests."""
        self.able.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, execution: Execution) -> None:
        self._tasks.pop(execution, None)
        # Without effect unless the task was cancelled, maybe before it had begun.
        execution.end(failed("RequestCancelled", "The request was cancelled."))

    async def _run(self, execution: Execution) -> None:
        job = execution.job
        try:
            execution.began()
            execution.end(await self.send(job))
        except SendError as error:
            execution.end(failed(type(error).__name__, str(error)))
        except Exception as error:  # noqa: BLE001 (a fault of ours fails the attempt)
            _log.exception("request_failed", job=job.id, kind=job.kind)
            execution.end(RunResult(error=error_of(error)))


def failed(type_name: str, message: str) -> RunResult:
    """Return the result of a request that failed."""
    return RunResult(error=error_body(type_name, message))
