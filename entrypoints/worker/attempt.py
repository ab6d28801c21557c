"""One attempt at a job in this worker's hands: how long its handler runs, and what came of it."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, assert_never

import structlog

from domain.language.commands import CompleteJob, FailJob, ReturnJob
from entrypoints.service.views import ClaimedJob
from entrypoints.worker.error_bodies import error_body
from entrypoints.worker.execution import Execution, Executor, RunResult, timeout_of
from entrypoints.worker.job_source import AttemptKey, Outcome

GIVE_UP_SECONDS: Final = 5.0  # after a handler was told to end

_log = structlog.get_logger()


class Interruption(Enum):
    """Why an attempt was ended before its handler was done."""

    LOST = auto()  # cancelled, or another attempt's by now: nobody wants the outcome
    STOPPED = auto()  # the worker stops: the job is given back
    TIMED_OUT = auto()  # it ran longer than its timeout_seconds


class Attempt:
    """Made on the event loop when the job arrives."""

    def __init__(
        self, claimed: ClaimedJob, executor: Executor, on_begin: Callable[["Attempt"], None]
    ) -> None:
        self.claimed = claimed
        self._on_begin = on_begin
        self._executor = executor
        self._execution: Execution | None = None
        self._timeout_seconds = timeout_of(claimed, executor)
        self._interruption: Interruption | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._began: float | None = None  # by the loop's clock

    @property
    def key(self) -> AttemptKey:
        return self.claimed.id, self.claimed.attempt

    @property
    def is_lost(self) -> bool:
        return self._interruption is Interruption.LOST

    @property
    def is_interrupted(self) -> bool:
        return self._interruption is not None

    @property
    def ran_seconds(self) -> float:
        """How long the handler has run; 0 where it has not begun."""
        return 0.0 if self._began is None else asyncio.get_running_loop().time() - self._began

    def interrupt(self, reason: Interruption) -> None:
        """Tell the handler to end, and give it up when it takes no notice.

        The first reason stands, but that nobody wants the outcome holds whenever it is learnt.
        """
        is_first = self._interruption is None
        if is_first or reason is Interruption.LOST:
            self._interruption = reason
        if self._execution is None or self._execution.ended.done():
            return
        if is_first:
            self._executor.cancel(self._execution)
            self._call_later(GIVE_UP_SECONDS, self._give_up)

    async def run(self) -> Outcome | None:
        """Run the handler to its end, or until it was given up after it was told to end.

        None: there is nothing to report. Raises nothing, whatever the handler does.
        """
        if self._interruption is not None:
            return self._outcome(RunResult())
        self._execution = self._executor.execute(self.claimed, self._begin)
        try:
            return self._outcome(await self._execution.ended)
        finally:
            for timer in self._timers:
                timer.cancel()

    def return_command(self, *, is_suspect: bool = False) -> ReturnJob:
        return ReturnJob(
            job_id=self.claimed.id,
            attempt=self.claimed.attempt,
            begun=self._began is not None,
            suspect=is_suspect,
        )

    def _begin(self) -> None:
        """The handler begins now, which is when its time begins to run."""
        is_first = self._began is None
        self._began = asyncio.get_running_loop().time()
        if self._timeout_seconds is not None and is_first:
            self._call_later(self._timeout_seconds, lambda: self.interrupt(Interruption.TIMED_OUT))
        if is_first:
            self._on_begin(self)

    def _give_up(self) -> None:
        if self._execution is None or self._execution.ended.done():
            return
        assert self._interruption is not None
        _log.warning(
            "handler_given_up",
            job=self.claimed.id,
            kind=self.claimed.kind,
            user=self.claimed.user_id,
            attempt=self.claimed.attempt,
            after=self._interruption.name.lower(),
            ran_seconds=round(self.ran_seconds, 1),
        )
        self._executor.give_up(
            self._execution, f"The handler did not end {GIVE_UP_SECONDS:g} s after it was told to."
        )

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, function))

    def _outcome(self, ended: RunResult) -> Outcome | None:
        match self._interruption:
            case None if ended.is_returned:
                return self.return_command(is_suspect=ended.is_suspect)
            case None if ended.error is not None:
                return FailJob(
                    job_id=self.claimed.id,
                    attempt=self.claimed.attempt,
                    error=ended.error,
                    may_retry=ended.may_retry,
                )
            case None:
                return CompleteJob(
                    job_id=self.claimed.id, attempt=self.claimed.attempt, result=ended.result
                )
            case Interruption.LOST:
                return None
            case Interruption.STOPPED:
                return self.return_command()
            case Interruption.TIMED_OUT:
                return self._timed_out(ended)
            case _:
                assert_never(self._interruption)

    def _timed_out(self, ended: RunResult) -> FailJob:
        whose = "job" if self._timeout_seconds == self.claimed.timeout_seconds else "handler"
        message = f"The attempt ran longer than the {whose}'s {self._timeout_seconds:g} s."
        if ended.is_given_up:
            message += (
                f" Its handler took no notice for {GIVE_UP_SECONDS:g} s after it was told to end, "
                "and was given up."
            )
        return FailJob(
            job_id=self.claimed.id,
            attempt=self.claimed.attempt,
            error=error_body("TimeoutError", message, ended.cancelled_at),
        )
