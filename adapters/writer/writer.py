"""The writer: every change goes through one thread, under the head lock.

Commands wait in a bounded queue. The thread takes all that wait, decides them together under the
lock, appends their events in one transaction, and only then answers the callers. An answer means
that the events are on disk.
"""

import asyncio
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

from adapters.clock import SystemClock
from adapters.database.database import Database, throw_away
from adapters.database.faults import (
    Fault,
    error_code,
    explained,
    fault_of,
    is_for_everybody,
    refused_to_all,
)
from adapters.log.event_log import SqlEventLog
from adapters.log.outbox import OutboxLocked, SqlOutbox
from adapters.supervision import Part, reason_of, supervise
from adapters.writer.command_queue import CommandQueue, Pending, body_bytes
from domain.decisions.answers import Answer, OutboxTaken
from domain.decisions.batch import Batch, Outcome
from domain.decisions.ports import Head, Projections
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.new_work import new_work
from domain.jobs.ended_attempts import EndedAttempt, ended_attempts
from domain.language.bodies import body_of
from domain.language.commands import (
    AcceptClock,
    Command,
    SaveProjections,
    SubmitJob,
    SubmitRows,
    TakeOutbox,
)
from domain.language.errors import (
    ClockInDoubt,
    FairlogError,
    LogFileReplaced,
    LogTooNew,
    LogUnavailable,
    OutboxUnavailable,
    WriteFailed,
    without_traceback,
)
from domain.language.events import ClockCorrected, JobFailed, RateLimitDecided, Recorded, type_of
from domain.language.identifiers import Kind, UserId
from domain.language.moments import from_micros
from domain.language.policy import Policy
from domain.log.log_time import Correction, TimeKeeper, by_log_time
from domain.log.stored_log import Leaf

# The rows of the inline projections are written when no command has come for a while; under load
# after so much time or so many events, so that a job that is done by then is written once.
IDLE_SAVE_SECONDS: Final = 0.05
SAVE_SECONDS_MAX: Final = 0.5
UNSAVED_EVENTS_MAX: Final = 4_000
# From a batch's first attempt to the error for its callers. With one statement that hangs for 3 s
# and one attempt to connect (1 s) they have it within 5 s.
BATCH_SECONDS_MAX: Final = 3.0
# The same if an immediate retry will hardly help: a full disk, a missing privilege.
BROKEN_SECONDS_MAX: Final = 0.5
# Between two tests whether the log can be written, while no command waits: when it is known that it
# cannot, and otherwise (in a server only).
FAILING_PROBE_SECONDS: Final = 1.0
PROBE_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.02
_SEND_AGAIN: Final = (
    "The request may be sent again, with the same idempotency key it never runs twice."
)
_OUTCOME_UNKNOWN: Final = f"The outcome is not known. {_SEND_AGAIN}"

# Is written and rolled back to test whether the log can be written.
_REHEARSAL: Final = SubmitJob(
    user_id=UserId("rehearsal"), kind=Kind("rehearsal"), payload=body_of("x" * 16_384, "payload")
)

_log = structlog.get_logger()

Subscriber = Callable[[Sequence[Recorded], Sequence[Leaf]], None]
Observer = Callable[["BatchWritten"], None]


class WriterStats(Struct):
    """Counts since the writer started."""

    batches: int = 0
    commands: int = 0
    events: int = 0
    retries: int = 0  # transactions tried again


class BatchWritten(Struct, frozen=True):
    """The metrics of one batch that is on disk."""

    position: int  # of its latest event
    commands: int
    seconds: float  # from taking it off the queue
    events: Mapping[tuple[str, str], int]  # by type, and the reason of a failed attempt or ""
    decisions: Mapping[tuple[str, bool], int]  # by scope, and whether allowed: submissions
    new_work: Mapping[Kind, int] = {}  # by kind: jobs that can be claimed now, at most
    ended: Sequence[EndedAttempt] = ()

    def has_any(self, types: Container[str]) -> bool:
        """Return True if an event of these types is in the batch."""
        return any(name in types for name, _ in self.events)


class WritePath(Protocol):
    """The path of commands to the log: a writer in this process, or in one of its own."""

    stats: WriterStats
    fatal: FairlogError | None  # why it stopped for good

    async def execute(self, command: Command) -> Answer:
        """Return the answer once it is on disk.

        Raises a Refusal, `QueueFull`, `LogUnavailable` or `WriteFailed`.
        """

    async def execute_each(self, commands: Sequence[Command]) -> list[Outcome]:
        """Return an outcome for each command, in order, once all have one.

        Each is decided alone, and its outcome is what `execute` would return or raise.
        """

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """Block until all have an outcome, for a caller without an event loop."""

    def observe(self, observer: "Observer") -> None:
        """Call the observer for each batch on disk, before its callers have their answers."""

    def waiting(self) -> int:
        """Return the number of commands without an answer."""

    def oldest_seconds(self) -> float:
        """Return how long the oldest of them has waited, in seconds; 0 if there is none."""

    def start(self) -> None:
        """Start the writer; call it once."""

    async def attach(self) -> None:
        """Connect the running event loop, before `execute` is used there."""

    def stop(self) -> None:
        """Write what waits, then end. Later commands are refused."""


class _WrittenBatch(Struct, frozen=True):
    """A batch that was decided. One with events is in doubt until its COMMIT is answered; one
    without is decided again after an error.
    """

    head: Head  # after the batch
    recorded: Sequence[Recorded]
    leaves: Sequence[Leaf]
    outcomes: list[Outcome]
    model: WriteModel
    has_changed_rows: bool  # so there is something to commit, even without events


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
        self.fatal: FairlogError | None = None  # why it stopped for good
        self._database = database
        self._log = log
        self._clock = log.clock or SystemClock()
        self._time = TimeKeeper()
        self._outbox = SqlOutbox(is_sqlite=database.is_sqlite)
        self._projections = projections
        self._policy = policy
        self._subscribers: list[Subscriber] = []
        self._observers: list[Observer] = []
        self._taken_at = 0.0  # time.monotonic()
        self._connection: Connection | None = None
        # The latest command of each type that could not be written, until one of that type is:
        # claims may fail while submissions succeed.
        self._failed: dict[type[Command], Command] = {}
        self._probed_at = 0.0  # time.monotonic()
        self._head_version: int | None = None
        self._unsaved_since: float | None = None  # time.monotonic(); None: all rows are saved
        self._in_doubt: _WrittenBatch | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fairlog-writer", daemon=True)

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
        replies = [self.queue.put(command) for command in commands]
        return [_outcome_of(reply) for reply in replies]

    def waiting(self) -> int:
        return len(self.queue)

    def oldest_seconds(self) -> float:
        return self.queue.oldest_seconds()

    def _run(self) -> None:
        supervise(self.part, self._take_and_write, self._stopping, self._reset)
        self._disconnect()
        self.queue.close()
        self.queue.fail_waiting(self.fatal or LogUnavailable("The server is stopping."))

    def _take_and_write(self) -> None:
        """Write batches until the queue is closed, or a newer release writes to the log."""
        while self.fatal is None:
            if not self.queue and not self.queue.wait(self._idle_seconds()):
                if self._unsaved_since is None or self.part.is_failing:
                    self._probe()
                else:
                    self._save()
                continue
            batch = self.queue.take()
            if not batch:
                if self._unsaved_since is not None:
                    self._save()
                return
            self._taken_at = time.monotonic()
            self.part.begins()
            try:
                self._process(batch, deadline=self._taken_at + BATCH_SECONDS_MAX)
            except BaseException:  # no caller may wait for ever
                self.queue.resolve(batch, [LogUnavailable(_OUTCOME_UNKNOWN)] * len(batch))
                raise
            del batch  # else it would stay in memory until the next batch

    def _idle_seconds(self) -> float | None:
        """Return how long to wait for commands before the rows are saved, or before a test whether
        commands could be written.
        """
        if self.part.is_failing:
            return FAILING_PROBE_SECONDS
        return self.probe_seconds if self._unsaved_since is None else IDLE_SAVE_SECONDS

    def _reset(self) -> None:
        """Abandon the current batch after an unknown error."""
        self._in_doubt = None
        self._head_version = None
        self._disconnect()

    def _save(self) -> None:
        """Save the rows while no command waits."""
        self.part.begins()
        try:
            self._write([])
        except Exception as error:  # noqa: BLE001 (it would fail a batch too)
            if isinstance(error, LogTooNew):
                self.fatal = error
            self._note_broken(error)
        else:
            self.part.works()

    def _probe(self) -> None:
        """Test whether a batch could be written, and write nothing."""
        self._probed_at = time.monotonic()
        self.part.begins()
        try:
            connection = self._connect()
            with connection.begin() as transaction:
                head = self._log.lock_head(connection)
                self._database.check_in_place(connection)
                if self.part.is_failing:
                    self._rehearse(connection, head)
                else:  # leaves the cached rows alone
                    self._log.rehearse(connection, head)
                transaction.rollback()
            if self.part.is_failing and self._database.is_sqlite:
                self._log.rehearse_commit(connection)
        except Exception as error:  # noqa: BLE001 (it would fail a batch too)
            self._note_broken(error)
        else:
            self._failed.clear()
            self.part.works()

    def _note_broken(self, error: Exception) -> None:
        """Note an error that no command is to blame for."""
        if not isinstance(error, LogFileReplaced) or self._connection_is_busy():
            self._disconnect()
        self.part.fails(self._refusal_of_all(error) or error)

    def _note_failed(self, batch: Sequence[Pending], reason: str) -> None:
        for pending in batch:
            command = pending.command
            # A user's data may be the cause, so a command of our own takes its place.
            self._failed[type(command)] = _REHEARSAL if _has_user_data(command) else command
        self.part.fails(reason)

    def _note_written(self, batch: Sequence[Pending]) -> None:
        if self._failed:
            for pending in batch:
                self._failed.pop(type(pending.command), None)
        if not self._failed:
            self.part.works()
        elif time.monotonic() - self._probed_at > FAILING_PROBE_SECONDS:
            self._probe()  # no command of the failed type may come for long

    def _process(self, batch: Sequence[Pending], deadline: float, *, is_part: bool = False) -> None:
        """Write a batch, or a part of one that failed, and answer each of its callers once."""
        try:
            outcomes = self._write_until(batch, deadline, is_part=is_part)
        except ClockInDoubt as error:
            saves = [one for one in batch if isinstance(one.command, SaveProjections)]
            self._fail(
                [one for one in batch if not isinstance(one.command, SaveProjections)], error
            )
            if saves:  # no event has the time of a save
                self._process(saves, deadline, is_part=True)
        except LogUnavailable as error:
            self._fail(batch, error)
        except LogTooNew as error:
            self.fatal = error
            self._answer(batch, [error] * len(batch))
        except Exception as error:  # noqa: BLE001 (each caller must get an outcome)
            self._isolate(batch, error, deadline)
        else:
            self._answer(batch, outcomes)
            self._note_written(batch)

    def _fail(self, batch: Sequence[Pending], error: LogUnavailable) -> None:
        """Give a batch an error that any other would have, too."""
        error.nothing_was_recorded = self._in_doubt is None
        self._note_failed(batch, str(error).removesuffix(f" {_SEND_AGAIN}"))
        self._answer(batch, [error] * len(batch))
        # Commands that wait would have to wait as long again: they fail now.
        self.queue.fail_waiting(
            LogUnavailable(str(error), nothing_was_recorded=True),
            spared=SaveProjections if isinstance(error, ClockInDoubt) else None,
        )

    def _isolate(self, batch: Sequence[Pending], error: Exception, deadline: float) -> None:
        """Halve a refused batch until the command that the database refuses is alone."""
        if len(batch) > 1 and time.monotonic() < deadline:
            middle = len(batch) // 2
            self._process(batch[:middle], deadline, is_part=True)
            self._process(batch[middle:], deadline, is_part=True)
            return
        commands = Counter(type(pending.command).__name__ for pending in batch)
        _log.error("command_failed", commands=dict(commands), exc_info=error)
        if len(batch) > 1 or is_for_everybody(error):
            reason = explained(error)
            self.part.fails(error)
        elif fault_of(error) is Fault.REFUSED and not _has_user_data(batch[0].command):
            reason = refused_to_all(error)  # it holds no data of a user
            self._note_failed(batch, reason)
        else:
            self._answer(batch, [WriteFailed("The database refused this command.")])
            return
        unavailable = LogUnavailable(f"{reason} {_SEND_AGAIN}", nothing_was_recorded=True)
        self._answer(batch, [unavailable] * len(batch))

    def _answer(self, batch: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
        self._in_doubt = None
        self.queue.resolve(batch, outcomes)

    def _write_until(
        self, batch: Sequence[Pending], deadline: float, *, is_part: bool
    ) -> list[Outcome]:
        """Retry the whole transaction while that may help and there is time.

        After any error but refused values the connection is discarded. Raises `LogUnavailable` for
        errors that any other batch would have too, else the error, which one command may cause.
        """
        pause = _PAUSE_SECONDS
        # An unknown error may be caused by one command, or be transient. A batch is split, and so
        # tried again; a single command is tried again once.
        unknown_errors_left = 1 if len(batch) == 1 and not is_part else 0
        while True:
            try:
                return self._write(batch)
            except Exception as error:
                unknown_errors_left -= fault_of(error) is Fault.UNKNOWN
                until = self._retry_until(
                    error, deadline, is_part=is_part, is_last=unknown_errors_left < 0
                )
                if time.monotonic() + pause > until:
                    _log.warning(
                        "database_unavailable",
                        error=type(error).__name__,
                        code=error_code(error),
                        reason=reason_of(error),
                    )
                    if isinstance(error, ClockInDoubt):
                        raise
                    raise LogUnavailable(f"{explained(error)} {_SEND_AGAIN}") from error
            self.stats.retries += 1
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries)
            pause = min(pause * 2, 0.5)

    def _retry_until(
        self, error: Exception, deadline: float, *, is_part: bool, is_last: bool
    ) -> float:
        """Return until when to retry, as time.monotonic(). Raises the error if that cannot help."""
        fault = fault_of(error)
        # The same connection continues when the file is put back, or the clock is right.
        keeps = fault is Fault.REFUSED or isinstance(error, LogFileReplaced | ClockInDoubt)
        if not keeps or self._connection_is_busy():
            self._disconnect()
        if isinstance(error, LogTooNew | LogFileReplaced):
            raise error
        if self._in_doubt is not None:
            return deadline
        if not is_part and (found := self._refusal_of_all(error)):
            raise LogUnavailable(f"{found} {_SEND_AGAIN}") from error
        if fault is Fault.REFUSED or is_last:
            raise error
        if fault is Fault.BROKEN:
            return min(deadline, self._taken_at + BROKEN_SECONDS_MAX)
        return deadline

    def _refusal_of_all(self, error: Exception) -> str | None:
        """Return why the database refuses whatever is written; None if it does not."""
        if fault_of(error) is not Fault.REFUSED:
            return None
        try:
            connection = self._connect()
            with connection.begin() as transaction:
                head = self._log.lock_head(connection)
                found = self._log.row_beyond_head(connection, head)
                if found is None:
                    self._rehearse(connection, head)
                transaction.rollback()
        except Exception as failed:  # noqa: BLE001 (the answer is unknown then)
            self._disconnect()
            if fault_of(failed) is Fault.REFUSED:
                return refused_to_all(failed)
            _log.warning("look_at_a_refusal_failed", reason=reason_of(failed))
            return None
        return found

    def _rehearse(self, connection: Connection, head: Head) -> None:
        """Decide and write the commands that failed, or a submission of our own, and the rows that
        are not saved, as a test. Needs the head lock; the caller rolls back.
        """
        self._refresh_projections(connection, head)
        commands = [*(self._failed.values() or [_REHEARSAL]), SaveProjections()]
        self._decide_and_append(connection, head, commands, None)

    def _refresh_projections(self, connection: Connection, head: Head) -> None:
        if head.version != self._head_version:
            self._projections.refresh(connection)
            self._head_version = head.version

    def _write(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Write a batch in one transaction. An empty one saves the rows of the projections."""
        try:
            return self._write_once(batch)
        except (OutboxLocked, OutboxUnavailable) as error:  # the other commands go on without it
            return self._write_once(batch, without_traceback(error))

    def _write_once(
        self, batch: Sequence[Pending], outbox_error: Exception | None = None
    ) -> list[Outcome]:
        """Write a batch, from the head lock to the commit; with an error of the outbox, without it.

        Raises `OutboxLocked` and `OutboxUnavailable`.
        """
        connection = self._connect()
        with connection.begin() as transaction:
            head = self._log.lock_head(connection)
            if self._in_doubt is not None and self._was_written(connection, self._in_doubt):
                transaction.rollback()
                return self._finish(batch, self._in_doubt)
            self._in_doubt = None
            self._database.check_in_place(connection)
            self._refresh_projections(connection, head)
            commands = [pending.command for pending in batch]
            corrected = None
            if not all(isinstance(one, SaveProjections) for one in commands):
                head, corrected = self._judge_time(head, commands)
            done = self._decide_and_append(connection, head, commands, corrected, outbox_error)
            if done.recorded:
                self._in_doubt = done
            elif not done.has_changed_rows:
                transaction.rollback()
                self._keep(done.model)
                return done.outcomes
            if self.queue:  # another transaction follows at once
                self._log.prefetch_head_lock(connection)
            transaction.commit()
            self._keep(done.model)
        self._database.check_in_place(connection)  # else the answers would be for lost events
        return self._finish(batch, done) if done.recorded else done.outcomes

    def _keep(self, model: WriteModel) -> None:
        """Keep the state for the next batch, once its changes are committed."""
        self._projections.keep(model)
        if model.position == self._projections.saved:
            self._unsaved_since = None
        elif self._unsaved_since is None:
            self._unsaved_since = time.monotonic()

    def _is_save_due(self, commands: Sequence[Command], model: WriteModel) -> bool:
        """Return True if asked to, if enough is unsaved, or to test whether rows are refused."""
        since = self._unsaved_since
        return (
            self.part.is_failing
            or not commands
            or any(isinstance(one, SaveProjections) for one in commands)
            or (since is not None and time.monotonic() - since > SAVE_SECONDS_MAX)
            or model.position - self._projections.saved > UNSAVED_EVENTS_MAX
        )

    def _judge_time(
        self, head: Head, commands: Sequence[Command]
    ) -> tuple[Head, ClockCorrected | None]:
        """Check `now` before anything is written with it. Raises `ClockInDoubt`."""
        assert head.reading is not None, "it was read with the lock"
        if any(isinstance(command, AcceptClock) for command in commands):
            judged = self._time.accept(head.reading)
        else:
            judged = self._time.judge(head.reading, self._clock.elapsed())
        return replace(head, now=from_micros(judged.now)), judged.corrected

    def _decide_and_append(
        self,
        connection: Connection,
        head: Head,
        commands: Sequence[Command],
        corrected: ClockCorrected | None,
        outbox_error: Exception | None = None,
    ) -> _WrittenBatch:
        decided = self._with_rows(connection, commands, outbox_error)
        if head.reading is not None and head.reading.correction.trusts_clock:
            decided = [_by_log_time(one, head.reading.correction) for one in decided]
        required = RequiredRows()
        required.add_commands(decided, self._policy)
        saved = head.saved
        model = self._projections.load(connection, head, required)
        model.keys.become(self._log.keys(connection, head))
        batch = Batch(
            model,
            self._policy,
            head.now,
            lambda unread: self._projections.look_further(connection, unread, model),
        )
        if corrected is not None:
            batch.correct_clock(corrected)
        outcomes = batch.decide_all(decided, _log_crash)
        if isinstance(outbox_error, OutboxUnavailable):
            outcomes = [
                outbox_error if isinstance(one, TakeOutbox) else outcome
                for one, outcome in zip(commands, outcomes, strict=True)
            ]
        leaves: Sequence[Leaf] = ()
        new = head
        if batch.empty_claims:
            self._projections.note_empty_claims(connection, batch.empty_claims, batch.now)
        if batch.recorded:
            new, leaves = self._log.append(connection, head, batch.recorded, batch.bodies)
            if batch.erased:
                self._log.erase_bodies(connection, batch.erased)
        if model.position > self._projections.saved and self._is_save_due(commands, model):
            self._projections.save(connection, model)
        if batch.recorded:
            self._log.move_head(connection, head, new)
            if corrected is not None:
                self._log.note_correction(connection)
            self._log.note_keys(connection, model.keys)
            head = new
        has_changed_rows = bool(batch.empty_claims) or self._projections.saved != saved
        for taken in outcomes:
            if isinstance(taken, OutboxTaken):
                has_changed_rows |= self._outbox.remove(connection, taken, batch.now)
        return _WrittenBatch(head, batch.recorded, leaves, outcomes, model, has_changed_rows)

    def _with_rows(
        self, connection: Connection, commands: Sequence[Command], error: Exception | None
    ) -> list[Command | SubmitRows]:
        """Replace the first TakeOutbox by the rows that it takes. Another one in the same batch
        would read the same rows, which are deleted at its end.
        """
        decided: list[Command | SubmitRows] = list(commands)
        for place, command in enumerate(commands):
            if isinstance(command, TakeOutbox):
                if isinstance(error, OutboxLocked):
                    decided[place] = SubmitRows(is_locked=True)
                elif error is None:
                    decided[place] = self._outbox.read(connection, command)
                break
        return decided

    def _was_written(self, connection: Connection, doubt: _WrittenBatch) -> bool:
        """Compare hashes. A hash covers the whole log up to it, so equal means it is our batch."""
        return self._log.hash_at(connection, doubt.head.position) == doubt.head.hash

    def _finish(self, batch: Sequence[Pending], done: _WrittenBatch) -> list[Outcome]:
        self.stats.batches += 1
        self.stats.commands += sum(type(one.command) is not SaveProjections for one in batch)
        self.stats.events += len(done.recorded)
        seconds = time.monotonic() - self._taken_at
        for subscriber in self._subscribers:
            with errors_logged():
                subscriber(done.recorded, done.leaves)
        if isinstance(done.recorded[0].event, ClockCorrected):
            _log_correction(done.recorded[0].event)
        written = _metrics_of(done, len(batch), seconds)
        for observer in self._observers:
            with errors_logged():
                observer(written)
        return done.outcomes

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.connect_writer()
        return self._connection

    def _connection_is_busy(self) -> bool:
        connection = self._connection
        return connection is not None and (connection.invalidated or connection.in_transaction())

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            throw_away(connection)


def _has_user_data(command: Command) -> bool:
    return isinstance(command, TakeOutbox) or body_bytes(command) > 0


def _by_log_time(command: Command | SubmitRows, correction: Correction) -> Command | SubmitRows:
    match command:
        case SubmitJob():
            return by_log_time(command, correction)
        case SubmitRows(rows=rows):
            shifted = [(row_id, by_log_time(one, correction)) for row_id, one in rows]
            return replace(command, rows=shifted)
        case _:
            return command


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


def _metrics_of(done: _WrittenBatch, commands: int, seconds: float) -> BatchWritten:
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


@contextmanager
def errors_logged() -> Iterator[None]:
    """Log errors of a subscriber: they must not fail a batch that is on disk."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (the subscriber's)
        _log.error("subscriber_failed", exc_info=error)


def _log_crash(command: Command, error: Exception) -> None:
    _log.error("decision_failed", command=type(command).__name__, exc_info=error)
