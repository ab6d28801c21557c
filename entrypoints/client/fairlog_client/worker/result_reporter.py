"""Reports the outcomes of attempts to the job source, one batch at a time.

A report is repeated until the log accepts or refuses it: only the log knows which attempt is the
current one, and the same outcome twice changes nothing.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from fairlog_client.logs.log import Log
from fairlog_client.worker.backoff import Backoff, FailureLog
from fairlog_client.worker.error_bodies import error_body
from fairlog_client.worker.job_source import (
    JOBS_PER_CALL_MAX,
    AttemptLost,
    JobSource,
    SourceAway,
    SourceRefused,
)
from fairlog_client.worker.outcomes import AttemptKey, Completed, Failed, Outcome, Returned

PAUSE_SECONDS_MAX: Final = 2.0
# While so many outcomes come in a batch, the next one is gathered for a moment.
MANY_OUTCOMES: Final = 8
GATHER_SECONDS: Final = 0.01
UNEXPECTED_TRIES_MAX: Final = 5

_log = Log("worker")


class ResultReporter:
    """A queue of outcomes, which `deliver` empties in a task of its own.

    `on_delivered` is called after each batch.
    """

    def __init__(self, source: JobSource, on_delivered: Callable[[], None]) -> None:
        self._on_delivered = on_delivered
        self.can_deliver = asyncio.Event()  # not set while deliveries fail
        self.can_deliver.set()
        self._source = source
        self._waiting: dict[AttemptKey, Outcome] = {}
        self._has_outcomes = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._backoff = Backoff(PAUSE_SECONDS_MAX)
        self._failure_log = FailureLog()
        self._tries: dict[AttemptKey, int] = {}  # that ended with an unexpected error

    @property
    def undelivered(self) -> Iterable[AttemptKey]:
        """The attempts whose outcome is not on disk yet, so that their leases must be kept."""
        return self._waiting.keys()

    def put(self, outcome: Outcome) -> None:
        """Report an outcome; a later one of the same attempt replaces it."""
        self._waiting[outcome.job_id, outcome.attempt] = outcome
        self._has_outcomes.set()
        self._empty.clear()

    async def deliver(self) -> None:
        """Report what `put` has queued, until cancelled."""
        delivered = 0  # outcomes in the latest batch
        while True:
            await self._has_outcomes.wait()
            if delivered >= MANY_OUTCOMES > len(self._waiting):
                await asyncio.sleep(GATHER_SECONDS)
            batch = list(self._waiting.values())[:JOBS_PER_CALL_MAX]
            delivered = len(batch)
            answers = await self._report(batch)
            for outcome, answer in zip(batch, answers, strict=True):
                self._handle(outcome, answer)
            if not self._waiting:
                self._has_outcomes.clear()
                self._empty.set()
            self._on_delivered()
            await self._pause_after_failure(answers, len(self._waiting))

    async def flush(self, seconds_max: float) -> None:
        """Wait up to `seconds_max` until all outcomes are delivered; log those that are not."""
        try:
            await asyncio.wait_for(self._empty.wait(), seconds_max)
        except asyncio.TimeoutError:
            _log.warning("outcomes_undelivered", jobs=[job_id for job_id, _ in self._waiting])

    async def _report(self, batch: Sequence[Outcome]) -> Sequence[Exception | None]:
        try:
            return await self._source.report(batch)
        except SourceAway as error:
            return [error] * len(batch)
        except Exception as error:  # noqa: BLE001 (outcomes must outlast a fault of ours)
            _log.exception("delivery_failed")
            return [SourceAway(str(error))] * len(batch)

    def _handle(self, outcome: Outcome, answer: Exception | None) -> None:
        key = outcome.job_id, outcome.attempt
        if isinstance(answer, SourceAway):
            return
        if answer is not None and not isinstance(answer, AttemptLost | SourceRefused):
            # An unexpected error: a retry may succeed, but must not go on for ever.
            self._tries[key] = self._tries.get(key, 0) + 1
            if self._tries[key] < UNEXPECTED_TRIES_MAX:
                return
        self._tries.pop(key, None)
        del self._waiting[key]
        if answer is None or (isinstance(outcome, Returned) and isinstance(answer, AttemptLost)):
            return
        if isinstance(outcome, Completed) and not isinstance(answer, AttemptLost):
            self._waiting[key] = _failure(outcome, answer)
            return
        _log.warning(
            "outcome_dropped",
            job=outcome.job_id,
            attempt=outcome.attempt,
            outcome=type(outcome).__name__,
            reason=str(answer),
        )

    async def _pause_after_failure(self, answers: Sequence[Exception | None], waiting: int) -> None:
        """Wait a while if an outcome could not be delivered; clear `can_deliver` if none could.

        A single outcome that is not accepted must not stop the worker.
        """
        failed = [one for one in answers if isinstance(one, SourceAway)]
        if len(failed) < len(answers) or not failed:
            self.can_deliver.set()
        else:
            self.can_deliver.clear()
        if failed and self._failure_log.should_log(str(failed[0])):
            _log.warning("outcomes_delayed", outcomes=waiting, reason=str(failed[0]))
        if failed or (waiting and any(isinstance(one, Exception) for one in answers)):
            await asyncio.sleep(self._backoff.next_pause())
            return
        self._backoff.reset()
        if self._failure_log.should_log_recovery():
            _log.info("outcomes_delivered")


def _failure(outcome: Completed, answer: Exception) -> Failed:
    """Return the failure that replaces a result which cannot be recorded, so that the job is not
    run again in vain. A result that can never be accepted fails the job.
    """
    return Failed(
        job_id=outcome.job_id,
        attempt=outcome.attempt,
        error=error_body(type(answer).__name__, f"The result was not accepted: {answer}"),
        may_retry=not isinstance(answer, SourceRefused),
    )
