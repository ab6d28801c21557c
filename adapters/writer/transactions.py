"""The transactions of the writer: each from the head lock to the commit.

In one, a batch of commands is decided at the end of the log, and its events are appended. Nothing
of a transaction is kept in memory before it is committed. A commit without an answer is in doubt:
the next transaction looks whether it was carried out.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from adapters.clock import SystemClock
from adapters.database.database import Database, throw_away
from adapters.log import archived, lost_events
from adapters.log.event_log import SqlEventLog
from adapters.log.outbox import OutboxLocked, SqlOutbox
from adapters.supervision import reason_of
from adapters.writer.commits_in_doubt import CommitsInDoubt, WrittenBatch
from adapters.writer.known_end import KnownEnd
from domain.decisions.answers import OutboxTaken
from domain.decisions.batch import Batch
from domain.decisions.ports import Head, Projections
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.jobs.archive import needs_segments
from domain.language.commands import (
    AcceptClock,
    AcceptLoss,
    Command,
    SaveProjections,
    SubmitJob,
    SubmitRows,
    TakeOutbox,
)
from domain.language.errors import (
    EventsLost,
    LogUnavailable,
    OutboxUnavailable,
    without_traceback,
)
from domain.language.events import ClockCorrected, Recorded
from domain.language.moments import from_micros
from domain.language.policy import Policy
from domain.log.log_time import Correction, TimeKeeper, by_log_time
from domain.log.stored_log import Leaf

# Under load the rows of the inline projections are written after so much time or so many events,
# so that a job that is done by then is written once.
SAVE_SECONDS_MAX: Final = 0.5
UNSAVED_EVENTS_MAX: Final = 4_000

_log = structlog.get_logger()


class _Append:
    """The events of a transaction, which are sent to the database while more are decided."""

    def __init__(self, log: SqlEventLog, connection: Connection, head: Head) -> None:
        self.head = head  # after the events that were appended
        self.leaves: list[Leaf] = []
        self._log = log
        self._connection = connection

    def __call__(self, recorded: Sequence[Recorded], bodies: Sequence[tuple[int, bytes]]) -> None:
        self.head, leaves = self._log.append(self._connection, self.head, recorded, bodies)
        self.leaves += leaves


class Transactions:
    """The transactions on the writer's connection, which is opened when it is needed."""

    def __init__(
        self,
        database: Database,
        log: SqlEventLog,
        projections: Projections[Connection],
        policy: Policy,
        is_followed: Callable[[], bool],
    ) -> None:
        """`is_followed` returns True if the next transaction will begin at once."""
        self.in_doubt = CommitsInDoubt()
        self.unsaved_since: float | None = None  # time.monotonic(); None: all rows are saved
        self._database = database
        self._log = log
        self._clock = log.clock or SystemClock()
        self._time = TimeKeeper()
        self._outbox = SqlOutbox(is_sqlite=database.is_sqlite)
        self._projections = projections
        self._policy = policy
        self._is_followed = is_followed
        self._connection: Connection | None = None
        self._host_switches = 0  # when it was opened
        self._head_version: int | None = None
        self.known_end = KnownEnd(log)

    def write(self, commands: Sequence[Command], *, saves: bool) -> WrittenBatch:
        """Write a batch, and return it; without commands, save the rows of the projections.

        With `saves`, the rows are saved too. If the commit of an earlier batch is in doubt, the
        commands must be the same; that batch is returned if it was carried out.
        """
        try:
            try:
                return self._write(commands, saves=saves)
            except (OutboxLocked, OutboxUnavailable) as error:  # the others go on without it
                return self._write(commands, without_traceback(error), saves=saves)
        except EventsLost:
            self._handle_loss()
            raise

    def probe(self, commands: Sequence[Command]) -> None:
        """Test whether these commands could be written, and write nothing.

        Without commands, the state in memory and the rows of the projections are left alone.
        """
        try:
            self._probe(commands)
        except EventsLost:
            self._handle_loss()
            raise

    def _probe(self, commands: Sequence[Command]) -> None:
        connection = self._connect()
        with connection.begin() as transaction:
            head = self._log.lock_head(connection)
            self._check_end(connection, head)
            self._database.check_in_place(connection)
            if commands:
                self._rehearse(connection, head, commands)
            else:
                self._log.rehearse(connection, head)
            transaction.rollback()
        if commands and self._database.is_sqlite:
            self._log.rehearse_commit(connection)

    def row_beyond_head(self, commands: Sequence[Command]) -> str | None:
        """Return a sentence about a row that is in the way of all that is written; None if there is
        none. Then these commands are written as a test. Raises the error of the test.
        """
        connection = self._connect()
        with connection.begin() as transaction:
            head = self._log.lock_head(connection)
            found = self._log.row_beyond_head(connection, head)
            if found is None:
                self._rehearse(connection, head, commands)
            transaction.rollback()
        return found

    def reset(self) -> None:
        """Abandon the current batch after an unknown error."""
        self.in_doubt.forget()
        self._head_version = None
        self.disconnect()

    def is_busy(self) -> bool:
        """Return True if the connection can begin no transaction."""
        connection = self._connection
        return connection is not None and (connection.invalidated or connection.in_transaction())

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            throw_away(connection)

    def _write(
        self,
        commands: Sequence[Command],
        outbox_error: Exception | None = None,
        *,
        saves: bool,
    ) -> WrittenBatch:
        """Write a batch, from the head lock to the commit; with an error of the outbox, without it.

        Raises `OutboxLocked` and `OutboxUnavailable`.
        """
        connection = self._connect()
        with connection.begin() as transaction:
            head = self._log.lock_head(connection)
            # Who accepts a loss knows that events are missing.
            if not any(isinstance(one, AcceptLoss) for one in commands):
                self._check_end(connection, head)
            written = self.in_doubt.find(commands, partial(self._log.hash_at, connection))
            if written is not None:
                transaction.rollback()
                self.known_end.note(head, written.recorded)
                if self.unsaved_since is None:  # the rows of that batch are not saved
                    self.unsaved_since = time.monotonic()
                return written
            self._database.check_in_place(connection)
            self._refresh_projections(connection, head)
            corrected = None
            if not all(isinstance(one, SaveProjections | AcceptLoss) for one in commands):
                head, corrected = self._judge_time(head, commands)
            done = self._decide_and_append(
                connection, head, commands, corrected, outbox_error, saves=saves
            )
            has_saved = self._projections.saved != head.saved
            if done.recorded:
                self.in_doubt.latest = done
            elif not done.has_changed_rows:
                transaction.rollback()
                self._keep(done.model, has_saved=has_saved)
                return done
            if self._is_followed():  # another transaction follows at once
                self._log.prefetch_head_lock(connection)
            transaction.commit()
            self.known_end.note(done.head, done.recorded)
            self._keep(done.model, has_saved=has_saved)
        self._database.check_in_place(connection)  # else the answers would be for lost events
        return done

    def _rehearse(self, connection: Connection, head: Head, commands: Sequence[Command]) -> None:
        """Decide and write commands and the rows that are not saved, as a test. Needs the head
        lock; the caller rolls back.
        """
        self._refresh_projections(connection, head)
        done = self._decide_and_append(connection, head, commands, None, saves=False)
        self._projections.save(connection, done.model)
        # A rollback would drop what is held, and errors that nobody has read: a query reads them.
        connection.exec_driver_sql("SELECT 1")

    def _refresh_projections(self, connection: Connection, head: Head) -> None:
        if head.version != self._head_version:
            self._projections.refresh(connection)
            self._head_version = head.version

    def _keep(self, model: WriteModel, *, has_saved: bool) -> None:
        """Keep the state for the next batch, once its changes are committed."""
        self._projections.keep(model)
        if model.position == self._projections.saved:
            self.unsaved_since = None
        elif has_saved or self.unsaved_since is None:
            self.unsaved_since = time.monotonic()

    def _is_save_due(self, commands: Sequence[Command], model: WriteModel) -> bool:
        """Return True if asked to, or if enough is unsaved."""
        since = self.unsaved_since
        return (
            not commands
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
        *,
        saves: bool,
    ) -> WrittenBatch:
        decided = self._with_rows(connection, commands, outbox_error)
        if head.reading is not None and head.reading.correction.trusts_clock:
            decided = [_by_log_time(one, head.reading.correction) for one in decided]
        required = RequiredRows()
        required.add_commands(decided, self._policy)
        model = self._projections.load(connection, head, required)
        model.keys.become(self._log.keys(connection, head))
        model.archive.become(head.archived, head.archive_begun, head.closed_at)
        if any(map(needs_segments, decided)):
            model.archive.segments = archived.segments(connection)
        # First, since the database writes the rows while the batch is decided.
        is_behind = model.position > self._projections.saved
        if is_behind and (saves or self._is_save_due(commands, model)):
            self._projections.save(connection, model)
        append = _Append(self._log, connection, head)
        batch = Batch(
            model,
            self._policy,
            head.now,
            lambda unread: self._projections.look_further(connection, unread, model),
            append,
            # SQLite inserts nothing while this process decides.
            is_streamed=not self._database.is_sqlite,
        )
        if corrected is not None:
            batch.correct_clock(corrected)
        outcomes = batch.decide_all(decided, _log_crash)
        if isinstance(outbox_error, OutboxUnavailable):
            outcomes = [
                outbox_error if isinstance(one, TakeOutbox) else outcome
                for one, outcome in zip(commands, outcomes, strict=True)
            ]
        if batch.empty_claims:
            self._projections.note_empty_claims(connection, batch.empty_claims, batch.now)
        if batch.erased:
            self._log.erase_bodies(connection, batch.erased)
        has_saved = self._projections.saved != head.saved
        if batch.recorded:
            new_head = replace(append.head, saved=self._projections.saved)
            self._log.move_head(connection, head, new_head)
            if corrected is not None:
                self._log.note_correction(connection)
            self._log.note_keys(connection, model.keys)
            self._log.note_archive_and_losses(connection, batch.recorded)
        elif has_saved:
            self._log.set_saved(connection, self._projections.saved)
        has_changed_rows = bool(batch.empty_claims) or has_saved
        for taken in outcomes:
            if isinstance(taken, OutboxTaken):
                has_changed_rows |= self._outbox.remove(connection, taken, batch.now)
        return WrittenBatch(
            append.head, batch.recorded, append.leaves, outcomes, model, has_changed_rows
        )

    def _with_rows(
        self, connection: Connection, commands: Sequence[Command], error: Exception | None
    ) -> list[Command | SubmitRows]:
        """Replace the first TakeOutbox by the rows that it takes. Another one in the same batch
        would read the same rows, which are deleted at its end. Of archived jobs that are to be
        erased, leave out what was erased before; tell AcceptLoss what is reported by now.
        """
        decided: list[Command | SubmitRows] = archived.still_to_erase(connection, commands)
        for place, command in enumerate(commands):
            if isinstance(command, AcceptLoss):
                reported = lost_events.latest_lost(connection, command.at)
                decided[place] = replace(command, reported=reported)
            if isinstance(command, TakeOutbox):
                if isinstance(error, OutboxLocked):
                    decided[place] = SubmitRows(is_locked=True)
                elif error is None:
                    decided[place] = self._outbox.read(connection, command)
                break
        return decided

    def _check_end(self, connection: Connection, head: Head) -> None:
        """Raise `EventsLost`; forget what was lost once an operator has accepted that."""
        if not self.known_end.check(connection, head):
            _log.warning("loss_accepted", position=head.position)
            self.in_doubt.forget()
            self._head_version = None  # so that the projections are read again
            self._log.forget()

    def _handle_loss(self) -> None:
        """Report what is lost, in the database that lacks it, if it is certain by now. Let the next
        try be on another host if there are several.
        """
        connection = self._connection
        if connection is not None and self.known_end.is_report_due():
            try:
                self.known_end.report(connection)
            except (SQLAlchemyError, LogUnavailable) as error:  # a replica that nobody has promoted
                _log.warning("loss_not_reported", reason=reason_of(error))
        if self._database.hosts is not None:
            self._database.hosts.leave()

    def _connect(self) -> Connection:
        hosts = self._database.hosts
        if hosts is not None and hosts.switches != self._host_switches:
            self.disconnect()  # another thread uses another host now
        if self._connection is None:
            self._connection = self._database.connect_writer()
            self._host_switches = 0 if hosts is None else hosts.switches
        return self._connection


def _by_log_time(command: Command | SubmitRows, correction: Correction) -> Command | SubmitRows:
    match command:
        case SubmitJob():
            return by_log_time(command, correction)
        case SubmitRows(rows=rows):
            shifted = [(row_id, by_log_time(one, correction)) for row_id, one in rows]
            return replace(command, rows=shifted)
        case _:
            return command


def _log_crash(command: Command, error: Exception) -> None:
    _log.error("decision_failed", command=type(command).__name__, exc_info=error)
