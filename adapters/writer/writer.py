"""The writer: every change goes through one thread, under the head lock.

Commands wait in a bounded queue. The thread takes all that wait, decides them together under the
lock, appends their events in one transaction, and only then answers the callers. An answer means
that the events are on disk.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

import structlog
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from adapters.supervision import Part, supervise
from adapters.writer.command_queue import CommandQueue, Pending
from adapters.writer.commits_in_doubt import WrittenBatch
from adapters.writer.known_end import KnownEnd
from adapters.writer.retries import FAILING_PROBE_SECONDS, RetryingWriter
from adapters.writer.transactions import Transactions
from adapters.writer.write_path import BatchWritten, Observer, WriterStats, errors_logged
from domain.decisions.answers import Answer
from domain.decisions.batch import Outcome
from domain.decisions.ports import Projections
from domain.fairness.new_work import new_work
from domain.jobs.ended_attempts import ended_attempts
from domain.language.commands import Command, SaveProjections
from domain.language.errors import FairlogError, LogUnavailable
from domain.language.events import ClockCorrected, JobFailed, RateLimitDecided, Recorded, type_of
from domain.language.policy import Policy
from domain.log.stored_log import Leaf

# The rows of the inline projections are written when no command has come for so long; see also
# `SAVE_SECONDS_MAX`.
IDLE_SAVE_SECONDS: Final = 0.05
# Between two tests of a server whether the log can be written, while no command waits.
PROBE_SECONDS: Final = 5.0

_log = structlog.get_logger()

# Is called with the events of a batch, their leaves, and the hash of the chain up to the last one.
Subscriber = Callable[[Sequence[Recorded], Sequence[Leaf], bytes], None]


class Writer:
    """A `WritePath` with the writer in this process. `execute` may be called from any thread."""

    def __init__(
        self,
        database: Database,
        log: SqlEventLog,
        projections: Projections[Connection],
        policy: Policy,
        queue: CommandQueue | None = None,
        part: Part | None = None,
    ) -> None:
        self.part = Part("writes") if part is None else part
        self.probe_seconds: float | None = None  # None: no tests while idle and healthy
        self.stats = WriterStats()
        self.queue = CommandQueue() if queue is None else queue  # an empty one is falsy
        self._transactions = Transactions(
            database, log, projections, policy, is_followed=lambda: bool(self.queue)
        )
        self._retrying = RetryingWriter(
            self._transactions, self.queue, self.part, self.stats, self._publish
        )
        self._subscribers: list[Subscriber] = []
        self._observers: list[Observer] = []
        self._taken_at = 0.0  # time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fairlog-writer", daemon=True)

    @property
    def fatal(self) -> FairlogError | None:
        """The error that stopped the writer for good; None while it runs."""
        return self._retrying.fatal

    @fatal.setter
    def fatal(self, error: FairlogError | None) -> None:
        self._retrying.fatal = error

    def start(self) -> None:
        self._thread.start()

    async def attach(self) -> None:
        """Do nothing: the queue works with any event loop."""

    def stop(self) -> None:
        """Write what waits, then end. Later commands are refused."""
        self._stopping.set()
        self.queue.close()
        if self._thread.is_alive():
            self._thread.join()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber with each batch's events on disk, in the writer's thread."""
        self._subscribers.append(subscriber)

    def observe(self, observer: Observer) -> None:
        """Call the observer for each batch, in the writer's thread."""
        self._observers.append(observer)

    async def execute(self, command: Command) -> Answer:
        return await self.queue.put_async(command)

    async def execute_each(self, commands: Sequence[Command]) -> list[Outcome]:
        reply: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self.queue.put_call(commands, reply)
        return await reply

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        if self._thread.ident is None:  # a command that only reads: nobody would answer
            error = LogUnavailable("This process writes nothing.", nothing_was_recorded=True)
            return [error] * len(commands)
        replies = [self.queue.put(command) for command in commands]
        return [_outcome_of(reply) for reply in replies]

    def waiting(self) -> int:
        return len(self.queue)

    def oldest_seconds(self) -> float:
        return self.queue.oldest_seconds()

    @property
    def known_end(self) -> KnownEnd:
        """The end of the log that it knows."""
        return self._transactions.known_end

    def _run(self) -> None:
        supervise(self.part, self._take_and_write, self._stopping, self._transactions.reset)
        self._transactions.disconnect()
        self.queue.close()
        self.queue.fail_waiting(self.fatal or LogUnavailable("The server is stopping."))

    def _take_and_write(self) -> None:
        """Write batches until the queue is closed, or a newer release writes to the log."""
        while self.fatal is None:
            if not self.queue and not self.queue.wait(self._idle_seconds()):
                if self._transactions.unsaved_since is None or self.part.is_failing:
                    self._retrying.probe()
                else:
                    self._retrying.save()
                continue
            batch = self.queue.take()
            if not batch:
                if self._transactions.unsaved_since is not None:
                    self._retrying.save()
                return
            self._taken_at = time.monotonic()
            self._retrying.write(batch, self._taken_at)
            del batch  # else it would stay in memory until the next batch

    def _idle_seconds(self) -> float | None:
        """Return how long to wait for commands before the rows are saved, or before a test whether
        commands could be written.
        """
        if self.part.is_failing:
            return FAILING_PROBE_SECONDS
        return self.probe_seconds if self._transactions.unsaved_since is None else IDLE_SAVE_SECONDS

    def _publish(self, batch: Sequence[Pending], done: WrittenBatch) -> None:
        self.stats.batches += 1
        self.stats.commands += sum(type(one.command) is not SaveProjections for one in batch)
        self.stats.events += len(done.recorded)
        seconds = time.monotonic() - self._taken_at
        for subscriber in self._subscribers:
            with errors_logged():
                subscriber(done.recorded, done.leaves, done.head.hash)
        if isinstance(done.recorded[0].event, ClockCorrected):
            _log_correction(done.recorded[0].event)
        written = _metrics_of(done, len(batch), seconds)
        for observer in self._observers:
            with errors_logged():
                observer(written)


def _log_correction(event: ClockCorrected) -> None:
    _log.warning(
        "clock_corrected",
        reason=event.reason.value,
        clock=event.clock.isoformat(),
        log_ahead_seconds=event.offset_micros / 1e6,
    )


def _outcome_of(reply: Future[Answer]) -> Outcome:
    error = reply.exception()
    if error is None:
        return reply.result()
    assert isinstance(error, Exception), error
    return error


def _metrics_of(done: WrittenBatch, commands: int, seconds: float) -> BatchWritten:
    events: Counter[tuple[str, str]] = Counter()
    decisions: Counter[tuple[str, bool]] = Counter()
    for one in done.recorded:
        event = one.event
        if isinstance(event, RateLimitDecided):
            decisions[event.scope.value, event.allowed] += event.count
        reason = event.reason.value if isinstance(event, JobFailed) else ""
        events[type_of(event), reason] += 1
    return BatchWritten(
        done.recorded[-1].position,
        commands,
        seconds,
        dict(events),
        dict(decisions),
        dict(new_work(done.recorded, done.model.line)),
        list(ended_attempts(done.recorded, done.model.jobs.rows)),
    )
