"""The one write path: every change in this process goes through one thread and one lock.

Commands wait in a bounded queue; the thread takes all that wait, decides them together under the
head lock, appends their events in one transaction, and only then gives the callers their answers.
An answer means that it is on disk.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from adapters.clock import SystemClock
from adapters.command_queue import CommandQueue, Pending
from adapters.database import Database, Fault, fault_of
from adapters.event_log import SqlEventLog
from domain.batch import Batch, Outcome
from domain.commands import AcceptClock, Command, SubmitJob
from domain.decide import Answer
from domain.errors import (
    ClockInDoubt,
    FairlogError,
    LogFileReplaced,
    LogTooNew,
    LogUnavailable,
    WriteFailed,
)
from domain.events import ClockCorrected, JobFailed, RateLimitDecided, Recorded, type_of
from domain.log_time import TimeKeeper, by_log_time
from domain.moments import from_micros
from domain.policy import Policy
from domain.ports import Head, Projections
from domain.stored_log import Leaf
from domain.world import Needs, World

# From a batch's first try to the error its callers get. With one statement that hangs for 3 s and
# one attempt to connect (1 s) they have it within 5 s.
BATCH_SECONDS_MAX: Final = 3.0
_PAUSE_SECONDS: Final = 0.02
_OUTCOME_UNKNOWN: Final = (
    "The database does not answer; the request may be sent again, with the same idempotency key "
    "it never runs twice."
)

_log = structlog.get_logger()

Subscriber = Callable[[Sequence[Recorded], Sequence[Leaf]], None]
Observer = Callable[["BatchWritten"], None]


class WriterStats(Struct):
    """What the writer has done since it started."""

    batches: int = 0
    commands: int = 0
    events: int = 0
    retries: int = 0  # transactions tried again


class BatchWritten(Struct, frozen=True):
    """One batch that is on disk, in figures."""

    position: int  # of its latest event
    commands: int
    seconds: float  # from taking it off the queue
    events: Mapping[tuple[str, str], int]  # by type, and the reason of a failed attempt or ""
    decisions: Mapping[tuple[str, bool], int]  # by scope, and whether allowed: submissions

    def has_any(self, types: Container[str]) -> bool:
        """Whether an event of these types is among them."""
        return any(name in types for name, _ in self.events)


class WritePath(Protocol):
    """Where commands are decided and written: in this process, or in one of its own."""

    stats: WriterStats
    fatal: FairlogError | None  # why it stopped for good

    async def execute(self, command: Command) -> Answer:
        """Raises a Refusal, `QueueFull`, `LogUnavailable` or `WriteFailed`."""

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """For a caller without an event loop; blocks. An error is an outcome."""

    def observe(self, observer: "Observer") -> None:
        """Have each batch told when it is on disk, before its callers have their answers."""

    def waiting(self) -> int:
        """Commands without an answer yet."""

    def oldest_seconds(self) -> float:
        """How long the oldest of them has waited; 0 when none does."""

    def start(self) -> None:
        """Call it once."""

    def stop(self) -> None:
        """Write what is waiting, then end. Commands that come later are refused."""


class _InDoubt(Struct, frozen=True):
    """A batch whose COMMIT had no answer."""

    head: Head  # as it is if the batch was written
    recorded: Sequence[Recorded]
    leaves: Sequence[Leaf]
    outcomes: list[Outcome]
    world: World


class Writer:
    """Start it once; `execute` may be called from any thread."""

    def __init__(
        self, database: Database, log: SqlEventLog, projections: Projections[Connection],
        policy: Policy, queue: CommandQueue | None = None,
    ) -> None:  # fmt: skip
        self.stats = WriterStats()
        self.queue = CommandQueue() if queue is None else queue  # an empty one is falsy
        self.fatal: FairlogError | None = None  # why it stopped for good
        self._database = database
        self._log = log
        self._clock = log.clock or SystemClock()
        self._time = TimeKeeper()
        self._projections = projections
        self._policy = policy
        self._subscribers: list[Subscriber] = []
        self._observers: list[Observer] = []
        self._taken_at = 0.0  # time.monotonic()
        self._connection: Connection | None = None
        self._epoch: int | None = None
        self._in_doubt: _InDoubt | None = None
        self._thread = threading.Thread(target=self._run, name="fairlog-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, then end. Commands that come later are refused."""
        self.queue.close()
        if self._thread.is_alive():
            self._thread.join()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have the events of each batch told, in the writer's thread, after they are on disk."""
        self._subscribers.append(subscriber)

    def observe(self, observer: Observer) -> None:
        """As in `WritePath`; in the writer's thread."""
        self._observers.append(observer)

    async def execute(self, command: Command) -> Answer:
        return await self.queue.put_async(command)

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        replies = [self.queue.put(command) for command in commands]
        return [_outcome_of(reply) for reply in replies]

    def waiting(self) -> int:
        return len(self.queue)

    def oldest_seconds(self) -> float:
        return self.queue.oldest_seconds()

    def _run(self) -> None:
        while batch := self.queue.take():
            self._taken_at = time.monotonic()
            self._process(batch, deadline=self._taken_at + BATCH_SECONDS_MAX)
            del batch  # or it would be kept until the next one comes
            if self.fatal is not None:
                break
        self._disconnect()
        self.queue.close()
        self.queue.fail_waiting(self.fatal or LogUnavailable("The server is stopping."))

    def _process(self, batch: Sequence[Pending], deadline: float) -> None:
        """Write a batch, and answer each of its callers exactly once."""
        try:
            outcomes = self._write_until(batch, deadline)
        except LogUnavailable as error:
            error.nothing_was_recorded = self._in_doubt is None
            self._answer(batch, [error] * len(batch))
            # Whoever waits behind would wait as long again: they hear it now.
            self.queue.fail_waiting(LogUnavailable(str(error), nothing_was_recorded=True))
        except LogTooNew as error:
            self.fatal = error
            self._answer(batch, [error] * len(batch))
        except Exception as error:  # noqa: BLE001 (each caller must have an answer)
            if self._in_doubt is None:
                self._isolate(batch, error, deadline)
            else:  # the batch may be on disk: deciding parts of it anew could write it twice
                _log.error("outcome_unknown", exc_info=error)
                self._answer(batch, [LogUnavailable(_OUTCOME_UNKNOWN)] * len(batch))
        else:
            self._answer(batch, outcomes)

    def _isolate(self, batch: Sequence[Pending], error: Exception, deadline: float) -> None:
        """Split a refused batch until the command that the database refuses stands alone."""
        if len(batch) == 1:
            _log.error("command_failed", command=type(batch[0].command).__name__, exc_info=error)
            self._answer(batch, [WriteFailed("The database refused this command.")])
            return
        middle = len(batch) // 2
        self._process(batch[:middle], deadline)
        self._process(batch[middle:], deadline)

    def _answer(self, batch: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
        self._in_doubt = None
        self.queue.resolve(batch, outcomes)

    def _write_until(self, batch: Sequence[Pending], deadline: float) -> list[Outcome]:
        """Try the whole transaction again while that may help and there is time."""
        pause = _PAUSE_SECONDS
        while True:
            try:
                return self._write(batch)
            except ClockInDoubt as error:
                self._roll_back(is_lost=False)
                if time.monotonic() + pause > deadline:
                    _log.warning("clock_in_doubt", reason=str(error))
                    raise
            except LogFileReplaced:  # with this connection it goes on when the file is put back
                self._roll_back(is_lost=False)
                raise
            except (SQLAlchemyError, LogUnavailable, OSError) as error:
                fault = Fault.LOST if isinstance(error, LogUnavailable) else fault_of(error)
                self._roll_back(is_lost=fault is Fault.LOST)
                if fault is Fault.REFUSED:
                    raise
                if time.monotonic() + pause > deadline:
                    _log.warning("database_unavailable", error=type(error).__name__)
                    raise LogUnavailable(_OUTCOME_UNKNOWN) from error
            except Exception:
                self._roll_back(is_lost=False)
                raise
            self.stats.retries += 1
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries)
            pause = min(pause * 2, 0.5)

    def _write(self, batch: Sequence[Pending]) -> list[Outcome]:
        """One transaction, from the head lock to the commit."""
        connection = self._connect()
        with connection.begin() as transaction:
            head = self._log.lock_head(connection)
            if self._in_doubt is not None and self._was_written(connection, self._in_doubt):
                transaction.rollback()
                return self._finish(batch, self._in_doubt)
            self._in_doubt = None
            self._database.check_in_place(connection)
            if head.epoch != self._epoch:
                self._projections.refresh(connection)
                self._epoch = head.epoch
            commands = [pending.command for pending in batch]
            head, corrected = self._judge_time(head, commands)
            done = self._fold(connection, head, commands, corrected)
            if not done.recorded:
                transaction.rollback()
                self._projections.keep(done.world)
                return done.outcomes
            self._in_doubt = done
            if self.queue:  # nobody else takes from it: another transaction follows
                self._log.foresee_lock(connection)
            transaction.commit()
            self._projections.keep(done.world)
        self._database.check_in_place(connection)  # or what is answered for would be nowhere
        return self._finish(batch, done)

    def _judge_time(
        self, head: Head, commands: Sequence[Command]
    ) -> tuple[Head, ClockCorrected | None]:
        """Have `now` looked at before anything is written with it. Raises `ClockInDoubt`."""
        assert head.reading is not None, "it was read with the lock"
        if any(isinstance(command, AcceptClock) for command in commands):
            judged = self._time.accept(head.reading)
        else:
            judged = self._time.judge(head.reading, self._clock.elapsed())
        return replace(head, now=from_micros(judged.now)), judged.corrected

    def _fold(
        self, connection: Connection, head: Head, commands: Sequence[Command],
        corrected: ClockCorrected | None,
    ) -> _InDoubt:  # fmt: skip
        if head.reading is not None and head.reading.correction.trusts_clock:
            commands = [
                by_log_time(one, head.reading.correction) if isinstance(one, SubmitJob) else one
                for one in commands
            ]
        needs = Needs()
        needs.add_commands(commands, self._policy)
        world = self._projections.load(connection, head.position, needs)
        batch = Batch(
            world,
            self._policy,
            head.now,
            lambda unread: self._projections.look_further(connection, unread, world),
        )
        if corrected is not None:
            batch.correct_clock(corrected)
        outcomes = batch.fold(commands, _log_crash)
        leaves: Sequence[Leaf] = ()
        if batch.recorded:
            new, leaves = self._log.append(connection, head, batch.recorded, batch.bodies)
            if batch.erased:
                self._log.erase_bodies(connection, batch.erased)
            self._projections.save(connection, world)
            self._log.move_head(connection, head, new)
            if corrected is not None:
                self._log.note_correction(connection)
            head = new
        return _InDoubt(head, batch.recorded, leaves, outcomes, world)

    def _was_written(self, connection: Connection, doubt: _InDoubt) -> bool:
        """The hash stands for the whole log up to there, so equal means that this is our batch."""
        return self._log.hash_at(connection, doubt.head.position) == doubt.head.hash

    def _finish(self, batch: Sequence[Pending], done: _InDoubt) -> list[Outcome]:
        self.stats.batches += 1
        self.stats.commands += len(batch)
        self.stats.events += len(done.recorded)
        seconds = time.monotonic() - self._taken_at
        for subscriber in self._subscribers:
            with heard():
                subscriber(done.recorded, done.leaves)
        if isinstance(done.recorded[0].event, ClockCorrected):
            _log_correction(done.recorded[0].event)
        written = _in_figures(done.recorded, len(batch), seconds)
        for observer in self._observers:
            with heard():
                observer(written)
        return done.outcomes

    def _connect(self) -> Connection:
        if self._connection is None:
            try:
                self._connection = self._database.connect_writer()
            except DBAPIError as error:  # whatever its code, it is no command's fault
                raise LogUnavailable("The database refuses the connection.") from error
        return self._connection

    def _roll_back(self, *, is_lost: bool) -> None:
        if self._connection is None:
            return
        if is_lost:
            self._disconnect()
        elif self._connection.in_transaction():
            try:
                self._connection.rollback()
            except SQLAlchemyError:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.invalidate()
                connection.close()
            except SQLAlchemyError as error:
                _log.debug("connection_close_failed", error=type(error).__name__)


def _log_correction(event: ClockCorrected) -> None:
    _log.warning(
        "clock_corrected", reason=event.reason.value, clock=event.clock.isoformat(),
        log_ahead_seconds=event.offset_micros / 1e6,
    )  # fmt: skip


def _outcome_of(reply: Future[Answer]) -> Outcome:
    error = reply.exception()
    if error is None:
        return reply.result()
    assert isinstance(error, Exception), error
    return error


def _in_figures(recorded: Sequence[Recorded], commands: int, seconds: float) -> BatchWritten:
    events: Counter[tuple[str, str]] = Counter()
    decisions: Counter[tuple[str, bool]] = Counter()
    for one in recorded:
        event = one.event
        if isinstance(event, RateLimitDecided):
            decisions[event.scope.value, event.allowed] += event.count
        reason = event.reason.value if isinstance(event, JobFailed) else ""
        events[type_of(event), reason] += 1
    return BatchWritten(recorded[-1].position, commands, seconds, dict(events), dict(decisions))


@contextmanager
def heard() -> Iterator[None]:
    """Tell somebody of a batch: its callers wait, and it is on disk, whatever goes wrong here."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (it is somebody else's)
        _log.error("subscriber_failed", exc_info=error)


def _log_crash(command: Command, error: Exception) -> None:
    _log.error("decision_failed", command=type(command).__name__, exc_info=error)
