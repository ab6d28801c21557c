"""One attempt at a job in this worker's hands: how its handler is run, and what came of it."""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable
from enum import Enum, auto
from functools import partial
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from adapters.forks import end_if_child
from adapters.handlers import Handler, JobInHand
from domain.bodies import body_of
from domain.commands import CompleteJob, FailJob, ReturnJob
from domain.errors import InvalidInput
from domain.json_values import check_json
from entrypoints.views import ClaimedJob
from entrypoints.worker.failure import error_body, error_of, traceback_of
from entrypoints.worker.source import AttemptKey, Outcome
from entrypoints.worker.threads import HandlerThreads


class CutShort(Enum):
    """Why an attempt was ended before its handler was done."""

    LOST = auto()  # cancelled, or another attempt's by now: nobody wants the outcome
    STOPPED = auto()  # the worker stops: the job is given back
    TIMED_OUT = auto()  # it ran longer than its timeout_seconds


class Attempt:
    """Made on the event loop when the job arrives, which is when its time begins to run."""

    def __init__(self, claimed: ClaimedJob, handler: Handler) -> None:
        self.claimed = claimed
        self._handler = handler
        self._job = JobInHand(
            id=claimed.id, user=claimed.user_id, kind=claimed.kind, attempt=claimed.attempt
        )
        self._cut_short: CutShort | None = None
        self._cancellable: asyncio.Task[Any] | None = None  # while the handler runs on the loop
        self._arrived = asyncio.get_running_loop().time()

    @property
    def key(self) -> AttemptKey:
        return self.claimed.id, self.claimed.attempt

    @property
    def is_lost(self) -> bool:
        return self._cut_short is CutShort.LOST

    def cut_short(self, reason: CutShort) -> None:
        """Tell the handler to end: an async one is cancelled, any other sees `job.cancelled`.

        The first reason stands, but that nobody wants the outcome holds whenever it is learnt.
        """
        if self._cut_short is None or reason is CutShort.LOST:
            self._cut_short = reason
        if not self._job.cancelled:
            self._job.cancellation.set()
            if self._cancellable is not None:
                self._cancellable.cancel()

    async def run(self, threads: HandlerThreads) -> Outcome | None:
        """Run the handler to its end, which may be long after it was told to end.

        None: there is nothing to report. Raises nothing, whatever the handler does.
        """
        ended = _Ended()
        with self._time_limit():
            if self._cut_short is None:
                ended = await self._run_handler(threads)
        return self._outcome(ended)

    def given_back(self) -> ReturnJob:
        return ReturnJob(job_id=self.claimed.id, attempt=self.claimed.attempt)

    def _time_limit(self) -> contextlib.AbstractContextManager[object]:
        if self.claimed.timeout_seconds is None:
            return contextlib.nullcontext()
        timer = asyncio.get_running_loop().call_at(
            self._arrived + self.claimed.timeout_seconds, self.cut_short, CutShort.TIMED_OUT
        )
        stack = contextlib.ExitStack()
        stack.callback(timer.cancel)
        return stack

    async def _run_handler(self, threads: HandlerThreads) -> "_Ended":
        try:
            payload = msgspec.json.decode(self.claimed.payload)
            if self._handler.is_async:
                answer = self._handler.call(payload, self._job)
            else:
                answer = await threads.run(partial(self._handler.call, payload, self._job))
            if inspect.isawaitable(answer):
                answer = await self._await_cancellably(answer)
        except BaseException as error:  # noqa: BLE001 (not even SystemExit ends the worker)
            end_if_child(error)
            return _Ended(error=error)
        end_if_child()
        return _Ended(answer)

    async def _await_cancellably(self, answer: Awaitable[Any]) -> Any:  # noqa: ANN401 (any result)
        self._cancellable = asyncio.current_task()
        try:
            return await answer
        finally:
            self._cancellable = None

    def _outcome(self, ended: "_Ended") -> Outcome | None:
        match self._cut_short:
            case None if ended.error is not None:
                return self._failed(ended.error)
            case None:
                return self._completed(ended.answer)
            case CutShort.LOST:
                return None
            case CutShort.STOPPED:
                return self.given_back()
            case CutShort.TIMED_OUT:
                return self._timed_out(ended.error)
            case _:
                assert_never(self._cut_short)

    def _completed(self, answer: object) -> CompleteJob | FailJob:
        """A result that JSON cannot hold is one at every further attempt too: the job fails."""
        try:
            check_json(answer, "result")
            result = None if answer is None else body_of(answer, "result")
        except InvalidInput as error:
            return self._fails_with("ValueError", str(error), may_retry=False)
        except Exception as error:  # noqa: BLE001 (encoding runs code of the value's own)
            message = f"The result cannot be written as JSON: {error}."
            return self._fails_with("TypeError", message, may_retry=False)
        return CompleteJob(job_id=self.claimed.id, attempt=self.claimed.attempt, result=result)

    def _failed(self, error: BaseException) -> FailJob:
        return FailJob(
            job_id=self.claimed.id,
            attempt=self.claimed.attempt,
            error=error_of(error),
            may_retry=_may_retry(error),
        )

    def _timed_out(self, error: BaseException | None) -> FailJob:
        message = f"The attempt ran longer than the job's {self.claimed.timeout_seconds:g} s."
        trace = traceback_of(error) if isinstance(error, asyncio.CancelledError) else ""
        return self._fails_with("TimeoutError", message, trace)

    def _fails_with(
        self, type_name: str, message: str, trace: str = "", *, may_retry: bool = True
    ) -> FailJob:
        return FailJob(
            job_id=self.claimed.id,
            attempt=self.claimed.attempt,
            error=error_body(type_name, message, trace),
            may_retry=may_retry,
        )


class _Ended(Struct, frozen=True):
    """What the handler returned or raised."""

    answer: Any = None
    error: BaseException | None = None


def _may_retry(error: BaseException) -> bool:
    """An exception whose attribute `retry` is False asks for no further attempt."""
    try:
        return getattr(error, "retry", None) is not False
    except Exception:  # noqa: BLE001 (a property of the exception's own)
        return True
