"""Runs handlers on this process's event loop and in its threads."""

import asyncio
import contextlib
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from fairlog_client.handlers.loading import Handler, Handlers, JobContext
from fairlog_client.logs.log import Log, job_fields
from fairlog_client.processes.forks import end_if_child
from fairlog_client.worker.bodies import InvalidText, InvalidValue, encoded
from fairlog_client.worker.error_bodies import error_body, error_of, traceback_of
from fairlog_client.worker.execution import (
    Execution,
    ProgressSink,
    RunResult,
    given_up,
    ignore_progress,
    not_begun,
)
from fairlog_client.worker.json_values import check_json, find_invalid_unicode
from fairlog_client.worker.loops import is_cancelling
from fairlog_client.worker.outcomes import ClaimedJob, ProgressReport
from fairlog_client.worker.threads import HandlerThreads, NoThreadLeft, ThreadCall

_log = Log("worker")
_decode: Final = msgspec.json.Decoder().decode  # a handler may put another function in its place
PROGRESS_SECONDS: Final = 1.0  # between two reports that are passed on
RETRY_IN_SECONDS_MAX: Final = 366 * 86_400
_UNREADABLE: Final = "What the handler returned or raised cannot be read."


class HandlerJob(Struct, frozen=True):
    """The fields of a job that its handler needs."""

    id: int
    user: str
    kind: str
    attempt: int
    payload: bytes  # JSON


class ProgressReports:
    """The reports of one handler, from any thread. `progressed` is called on the event loop, at
    most every PROGRESS_SECONDS, with the latest one. Create it on the event loop.
    """

    def __init__(self, progressed: Callable[[ProgressReport], None]) -> None:
        self._progressed = progressed
        self._loop = asyncio.get_running_loop()
        self._latest: ProgressReport | None = None  # not passed on yet
        self._passed_on_at = float("-inf")  # by the loop's clock
        self._is_scheduled = False

    def report(self, fraction: float, message: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take, ProgressReport(fraction, _clean(message)))

    def _take(self, progress: ProgressReport) -> None:
        self._latest = progress
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_at(self._passed_on_at + PROGRESS_SECONDS, self._pass_on)

    def _pass_on(self) -> None:
        self._is_scheduled = False
        self._passed_on_at = self._loop.time()
        if self._latest is not None:
            latest, self._latest = self._latest, None
            self._progressed(latest)


def _clean(text: str) -> str:
    """Escape lone surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class HandlerRunner:
    """A runner of any number of handlers at once; each run has a number of its own."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._threads = HandlerThreads()
        self._runs: dict[int, _Run] = {}

    def prepare(
        self, number: int, job: HandlerJob, progressed: Callable[[ProgressReport], None]
    ) -> None:
        """Announce a job to `run`, so that it can be cancelled before it begins.

        `progressed` is called on the event loop with what its handler reports.
        """
        handler = self._handlers.get(job.kind)
        if handler is not None:  # None: the module has changed since the worker started
            self._runs[number] = _Run(handler, job, self._threads, progressed)

    async def run(self, number: int, job: HandlerJob, began: Callable[[], None]) -> RunResult:
        """Run a handler to its end. Raises nothing, whatever the handler does."""
        run = self._runs.get(number)
        if run is None:
            message = f"The handlers module has no kind {job.kind!r} any more."
            return RunResult(error=error_body("LookupError", message))
        try:
            return await run.run(began)
        except BaseException as error:  # noqa: BLE001 (methods of the handler's objects run here)
            return RunResult(error=error_body(type(error).__name__, _UNREADABLE))
        finally:
            del self._runs[number]

    def cancel(self, number: int) -> None:
        """Cancel an async handler; set `job.cancelled` for any other."""
        if number in self._runs:
            self._runs[number].cancel()

    def give_up(self, number: int) -> None:
        """Replace the thread of a handler that ignores its cancel, if it has one."""
        if number in self._runs:
            self._runs[number].give_up()

    def close(self) -> None:
        """Have the threads end when they are idle. Does not wait for them."""
        self._threads.close()


class _Run:
    def __init__(
        self,
        handler: Handler,
        job: HandlerJob,
        threads: HandlerThreads,
        progressed: Callable[[ProgressReport], None],
    ) -> None:
        self._handler = handler
        self._payload = job.payload
        self._job = JobContext(
            id=job.id,
            user=job.user,
            kind=job.kind,
            attempt=job.attempt,
            reporter=ProgressReports(progressed).report,
        )
        self._threads = threads
        self._in_thread: ThreadCall | None = None
        self._cancellable: asyncio.Task[Any] | None = None  # while the handler runs on the loop

    def cancel(self) -> None:
        if not self._job.cancelled:
            self._job.cancellation.set()
            if self._cancellable is not None:
                self._cancellable.cancel()

    def give_up(self) -> None:
        if self._in_thread is not None:
            self._threads.give_up(self._in_thread)

    async def run(self, began: Callable[[], None]) -> RunResult:
        job = self._job
        if job.cancelled:
            return not_begun()
        # The handler's log lines carry these fields, in its thread too.
        job_fields.set({"job": job.id, "kind": job.kind, "user": job.user, "attempt": job.attempt})
        try:
            answer = await self._answer(began)
        except NoThreadLeft as error:
            return RunResult(error=error_of(error), is_returned=True)
        except BaseException as error:  # noqa: BLE001 (not even SystemExit ends the worker)
            end_if_child(error)
            finals = self._handler.final_exceptions
            return _failed(error, finals, is_cancelled=job.cancelled)
        end_if_child()
        return _completed(answer)

    async def _answer(self, began: Callable[[], None]) -> Any:  # noqa: ANN401 (any result)
        payload = _decode(self._payload)
        began()
        if self._handler.is_async:
            answer = self._handler.call(payload, self._job)
        else:
            self._in_thread = self._threads.begin(partial(self._handler.call, payload, self._job))
            try:
                answer = await self._threads.end(self._in_thread)
            finally:
                self._in_thread = None
        if not inspect.isawaitable(answer):
            return answer
        self._cancellable = asyncio.current_task()
        try:
            return await answer
        finally:
            self._cancellable = None
            del answer  # a future would hold the error, whose traceback holds this frame


def _completed(answer: object) -> RunResult:
    """Return a result as JSON; one that JSON cannot hold fails the job, as every retry would."""
    try:
        check_json(answer, "result")
        return RunResult(result=None if answer is None else encoded(answer, "result"))
    except InvalidValue as error:
        where = find_invalid_unicode(answer, "result") if isinstance(error, InvalidText) else None
        return RunResult(error=error_body("ValueError", where or str(error)), may_retry=False)
    except Exception as error:  # noqa: BLE001 (encoding runs code of the value's own)
        message = f"The result cannot be written as JSON: {error}."
        return RunResult(error=error_body("TypeError", message), may_retry=False)


def _failed(
    error: BaseException, finals: Sequence[type[BaseException]], *, is_cancelled: bool
) -> RunResult:
    was_cancelled = isinstance(error, asyncio.CancelledError)
    return RunResult(
        is_disturbed=was_cancelled and not is_cancelled and is_cancelling(),
        error=error_of(error),
        may_retry=not isinstance(error, tuple(finals)) and _may_retry(error),
        retry_in_seconds=_retry_in_seconds(error),
        cancelled_at=traceback_of(error) if was_cancelled else "",
    )


def _may_retry(error: BaseException) -> bool:
    """Return False if the exception's attribute `retry` is False."""
    try:
        return getattr(error, "retry", None) is not False
    except Exception:  # noqa: BLE001 (a property of the exception's own)
        return True


def _retry_in_seconds(error: BaseException) -> float | None:
    """Return the exception's attribute of that name; None if it has none that can be used."""
    try:
        seconds = getattr(error, "retry_in_seconds", None)
        if seconds is None:
            return None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            seconds = math.nan
        if not 0 <= seconds <= RETRY_IN_SECONDS_MAX:
            _log.warning(
                "retry_in_seconds_ignored",
                reason=f"retry_in_seconds is a number from 0 to {RETRY_IN_SECONDS_MAX} (366 days).",
                error=type(error).__name__,
            )
            return None
        return float(seconds)
    except Exception:  # noqa: BLE001 (a property of the exception's own)
        return None


class LocalExecutor:
    """An `Executor` in this process, which a handler that holds the interpreter blocks.

    `fairlog` itself uses a `HandlerPool`.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.kinds: Mapping[str, float | None] = {
            kind: handler.timeout_seconds for kind, handler in handlers.items()
        }
        self.able = asyncio.Event()
        self.able.set()
        self._runner = HandlerRunner(handlers)
        self._numbers = itertools.count()
        self._running: dict[Execution, tuple[int, asyncio.Task[None]]] = {}

    @property
    def free(self) -> int:
        return sys.maxsize

    def start(self) -> None:
        """Do nothing."""

    def execute(
        self, job: ClaimedJob, began: Callable[[], None], progressed: ProgressSink = ignore_progress
    ) -> Execution:
        execution = Execution(job, began, progressed)
        number = next(self._numbers)
        self._runner.prepare(number, handler_job(job), execution.progressed)
        task = asyncio.create_task(self._run(number, execution), name=f"job-{job.id}")
        self._running[execution] = number, task
        return execution

    def cancel(self, execution: Execution) -> None:
        if execution in self._running:
            self._runner.cancel(self._running[execution][0])

    def give_up(self, execution: Execution, reason: str) -> None:
        execution.end(given_up(reason))
        if execution in self._running:
            self._runner.give_up(self._running[execution][0])

    async def stop(self) -> None:
        self._runner.close()

    async def _run(self, number: int, execution: Execution) -> None:
        try:
            job = handler_job(execution.job)
            execution.end(await self._runner.run(number, job, execution.began))
        finally:
            del self._running[execution]


def handler_job(job: ClaimedJob) -> HandlerJob:
    """Return what the handler of a claimed job needs."""
    return HandlerJob(job.id, job.user_id, job.kind, job.attempt, bytes(job.payload))
