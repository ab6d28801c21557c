"""One run of a handler as the worker sees it, wherever the handler runs."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from domain.language.bodies import Body
from domain.language.identifiers import Kind
from entrypoints.service.views import ClaimedJob
from entrypoints.worker.error_bodies import error_body


class RunResult(Struct, frozen=True, kw_only=True):
    """What came of a handler: its result or, where there is one, its error."""

    result: Body | None = None  # None: null
    error: Body | None = None
    may_retry: bool = True
    cancelled_at: str = ""  # the traceback of a handler that ended because it was cancelled
    is_given_up: bool = False  # it had not ended, and nobody waits for it any more
    is_returned: bool = False  # it could not run here to its end; another attempt may
    is_suspect: bool = False  # of one given back: it may have ended its process
    is_disturbed: bool = False  # its task was cancelled, though it was not told to end


class Execution:
    """Made on the event loop by an executor. `began` is called when the handler begins."""

    def __init__(self, job: ClaimedJob, began: Callable[[], None]) -> None:
        self.job = job
        self.began = began
        self.ended: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False
        self.begun_at: float | None = None  # the first time that it did; time.monotonic()

    def end(self, ended: RunResult) -> None:
        """The first end counts."""
        if not self.ended.done():
            self.ended.set_result(ended)


class Executor(Protocol):
    """Runs handlers. Use it on one event loop."""

    @property
    def kinds(self) -> Mapping[Kind, float | None]:
        """The kinds that have a handler, and the longest run in seconds that each asks for."""

    @property
    def able(self) -> asyncio.Event:
        """Set while handlers can be run; jobs that come otherwise are given back."""

    @property
    def free(self) -> int:
        """How many more handlers would begin at once; others wait, for a process to start."""

    def start(self) -> None:
        """Call it on the loop that it is to run on."""

    def execute(self, job: ClaimedJob, began: Callable[[], None]) -> Execution:
        """Run the job's handler. It may begin later, never before this returns."""

    def cancel(self, execution: Execution) -> None:
        """An async handler is cancelled, any other sees `job.cancelled`. It may take no notice."""

    def give_up(self, execution: Execution, reason: str) -> None:
        """Wait no longer for a handler that takes no notice; its place is free at once."""

    async def stop(self) -> None:
        """Run nothing more. What still runs is ended where it can be, and left alone elsewhere."""


def timeout_of(job: ClaimedJob, executor: Executor) -> float | None:
    """The seconds for which a run may last: the job's bound or its handler's, if it has one."""
    bounds = (job.timeout_seconds, executor.kinds[job.kind])
    return min((seconds for seconds in bounds if seconds is not None), default=None)


def not_begun() -> RunResult:
    """What came of a handler that was told to end before it began."""
    return RunResult(error=error_body("HandlerNotBegun", "The handler had not begun."))


def given_up(reason: str) -> RunResult:
    return RunResult(error=error_body("HandlerGivenUp", reason), is_given_up=True)
