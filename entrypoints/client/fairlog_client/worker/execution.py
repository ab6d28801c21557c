"""One run of a handler as the worker sees it, in whichever process the handler runs."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from fairlog_client.worker.error_bodies import error_body
from fairlog_client.worker.outcomes import ClaimedJob, ProgressReport


class RunResult(Struct, frozen=True, kw_only=True):
    """The end of a run: an error if there is one, else a result."""

    result: bytes | None = None  # None: null
    error: bytes | None = None
    may_retry: bool = True  # False: no further attempt can succeed
    retry_in_seconds: float | None = None  # that the error asks for; None: it does not say
    cancelled_at: str = ""  # the traceback of a handler that ended because it was cancelled
    is_given_up: bool = False  # the handler had not ended and is no longer waited for
    is_returned: bool = False  # it could not run here to its end; another attempt may
    is_suspect: bool = False  # if returned: its handler may have ended its process
    is_disturbed: bool = False  # its task was cancelled by another handler


ProgressSink = Callable[[ProgressReport], None]


def ignore_progress(_: ProgressReport) -> None:
    """Do nothing."""


class Execution:
    """A run that an executor has accepted. Create it on the event loop.

    `began` is called when the handler begins, and `progressed` with what it reports; `ended`
    resolves when the run has ended.
    """

    def __init__(
        self, job: ClaimedJob, began: Callable[[], None], progressed: ProgressSink = ignore_progress
    ) -> None:
        self.job = job
        self.began = began
        self.progressed = progressed
        self.ended: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False
        self.begun_at: float | None = None  # time.monotonic(); the first time, if run again

    def end(self, result: RunResult) -> None:
        """Resolve `ended`; later calls have no effect."""
        if not self.ended.done():
            self.ended.set_result(result)


class Executor(Protocol):
    """A runner of handlers. Use it on one event loop."""

    @property
    def kinds(self) -> Mapping[str, float | None]:
        """The kinds that have a handler, each with its handler's time-out in seconds, if any."""

    @property
    def able(self) -> asyncio.Event:
        """An event that is set while handlers can be run; otherwise jobs are returned."""

    @property
    def free(self) -> int:
        """The number of handlers that could begin now; further ones wait for a process."""

    def start(self) -> None:
        """Start on the running event loop."""

    def execute(
        self, job: ClaimedJob, began: Callable[[], None], progressed: ProgressSink
    ) -> Execution:
        """Run the job's handler, which begins after this call has returned."""

    def cancel(self, execution: Execution) -> None:
        """Ask a handler to end: cancel an async one, set `job.cancelled` for any other."""

    def give_up(self, execution: Execution, reason: str) -> None:
        """Stop waiting for a handler that ignores its cancel, and free its slot."""

    async def stop(self) -> None:
        """Accept no more runs, and end those that still run where that is possible."""


def timeout_of(job: ClaimedJob, executor: Executor) -> float | None:
    """Return the shorter of the job's and its handler's time-out in seconds; None without both."""
    bounds = (job.timeout_seconds, executor.kinds[job.kind])
    return min((seconds for seconds in bounds if seconds is not None), default=None)


def not_begun() -> RunResult:
    """Return the result of a run that was cancelled before its handler began."""
    return RunResult(error=error_body("HandlerNotBegun", "The handler had not begun."))


def given_up(reason: str) -> RunResult:
    """Return the result of a run whose handler was given up."""
    return RunResult(error=error_body("HandlerGivenUp", reason), is_given_up=True)
