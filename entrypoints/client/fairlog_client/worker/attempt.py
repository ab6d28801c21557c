"""One attempt at a job: its time-out, its interruption and its outcome."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from fairlog_client.logs.log import Log
from fairlog_client.worker.error_bodies import error_body
from fairlog_client.worker.execution import Execution, Executor, RunResult, timeout_of
from fairlog_client.worker.outcomes import (
    AttemptKey,
    ClaimedJob,
    Completed,
    Failed,
    Outcome,
    ProgressReport,
    Returned,
)

GIVE_UP_SECONDS: Final = 5.0  # from the interruption of a handler until it is given up

_log = Log("worker")


class Interruption(Enum):
    """The reason why an attempt is ended before its handler has finished."""

    LOST = auto()  # the job was cancelled or has a newer attempt: the outcome is discarded
    STOPPED = auto()  # the worker stops: the job is returned
    TIMED_OUT = auto()  # it ran longer than its time-out


class Attempt:
    """An attempt at a claimed job. Create it on the event loop.

    `on_begin` is called once, when the handler begins, and `on_progress` with each of its reports.
    """

    def __init__(
        self,
        claimed: ClaimedJob,
        executor: Executor,
        on_begin: Callable[["Attempt"], None],
        on_progress: Callable[["Attempt", ProgressReport], None],
    ) -> None:
        self.claimed = claimed
        self._on_begin = on_begin
        self._on_progress = on_progress
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
        """The time since the handler began; 0 if it has not."""
        return 0.0 if self._began is None else asyncio.get_running_loop().time() - self._began

    def interrupt(self, reason: Interruption) -> None:
        """Cancel the handler, and give it up if it does not end within GIVE_UP_SECONDS.

        The first reason counts, except that `LOST` replaces any other.
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
        """Run the handler until it ends or is given up after an interruption.

        Returns None if the attempt was lost. Raises nothing, whatever the handler does.
        """
        if self._interruption is not None:
            return self._outcome(RunResult())
        self._execution = self._executor.execute(self.claimed, self._begin, self._progressed)
        try:
            return self._outcome(await self._execution.ended)
        finally:
            for timer in self._timers:
                timer.cancel()

    def return_command(self, *, is_suspect: bool = False) -> Returned:
        """Return the command that gives the job back to the queue.

        `is_suspect`: its handler may have ended its process.
        """
        return Returned(
            job_id=self.claimed.id,
            attempt=self.claimed.attempt,
            begun=self._began is not None,
            suspect=is_suspect,
        )

    def _begin(self) -> None:
        """Record that the handler begins, and start its time-out."""
        is_first = self._began is None
        self._began = asyncio.get_running_loop().time()
        if self._timeout_seconds is not None and is_first:
            self._call_later(self._timeout_seconds, lambda: self.interrupt(Interruption.TIMED_OUT))
        if is_first:
            self._on_begin(self)

    def _progressed(self, progress: ProgressReport) -> None:
        if self._interruption is None:
            self._on_progress(self, progress)

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
            self._execution, f"The handler did not end within {GIVE_UP_SECONDS:g} s of its cancel."
        )

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, function))

    def _outcome(self, result: RunResult) -> Outcome | None:
        match self._interruption:
            case None if result.is_returned:
                return self.return_command(is_suspect=result.is_suspect)
            case None if result.error is not None:
                return Failed(
                    job_id=self.claimed.id,
                    attempt=self.claimed.attempt,
                    error=result.error,
                    may_retry=result.may_retry,
                    retry_in_seconds=result.retry_in_seconds,
                )
            case None:
                return Completed(
                    job_id=self.claimed.id, attempt=self.claimed.attempt, result=result.result
                )
            case Interruption.LOST:
                return None
            case Interruption.STOPPED:
                return self.return_command()
            case Interruption.TIMED_OUT:
                return self._timed_out(result)

    def _timed_out(self, result: RunResult) -> Failed:
        owner = "job" if self._timeout_seconds == self.claimed.timeout_seconds else "handler"
        message = f"The attempt ran longer than the {owner}'s {self._timeout_seconds:g} s."
        if result.is_given_up:
            message += (
                f" Its handler did not end within {GIVE_UP_SECONDS:g} s of its cancel and was "
                "given up."
            )
        return Failed(
            job_id=self.claimed.id,
            attempt=self.claimed.attempt,
            error=error_body("TimeoutError", message, result.cancelled_at),
        )
