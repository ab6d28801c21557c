"""Retries, division and refusal of batches that cannot be written at once.

An error that may pass is retried as long as the callers can wait. A batch with a command that the
database refuses is halved until that command is alone. An error that any other batch would have too
is given to all who wait, and from then on the writer tests by itself whether the log can be
written again.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from adapters.database.faults import (
    Fault,
    error_code,
    explained,
    fault_of,
    is_for_everybody,
    refused_to_all,
)
from adapters.supervision import Part, reason_of
from adapters.writer.command_queue import CommandQueue, Pending, body_bytes
from adapters.writer.commits_in_doubt import WrittenBatch
from adapters.writer.transactions import Transactions
from adapters.writer.write_path import WriterStats
from domain.decisions.batch import Outcome
from domain.language.bodies import body_of
from domain.language.commands import Command, SaveProjections, SubmitJob, TakeOutbox
from domain.language.errors import (
    ClockInDoubt,
    FairlogError,
    LogFileReplaced,
    LogTooNew,
    LogUnavailable,
    WriteFailed,
)
from domain.language.identifiers import Kind, UserId

# From a batch's first attempt to the error for its callers. With one statement that hangs for 3 s
# and one attempt to connect (1 s) they have it within 5 s.
BATCH_SECONDS_MAX: Final = 3.0
# The same if an immediate retry will hardly help: a full disk, a missing privilege.
BROKEN_SECONDS_MAX: Final = 0.5
# Between two tests whether the log can be written, once it is known that it cannot.
FAILING_PROBE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02
_SEND_AGAIN: Final = (
    "The request may be sent again, with the same idempotency key it never runs twice."
)
_OUTCOME_UNKNOWN: Final = f"The outcome is not known. {_SEND_AGAIN}"
_REFUSED: Final = "The database refused this command."
_CRASHED: Final = "This command could not be written because of a defect; the server's log has it."

# Is written and rolled back to test whether the log can be written.
_REHEARSAL: Final = SubmitJob(
    user_id=UserId("rehearsal"), kind=Kind("rehearsal"), payload=body_of("x" * 16_384, "payload")
)

_log = structlog.get_logger()

Publish = Callable[[Sequence[Pending], WrittenBatch], None]


class RetryingWriter:
    """Writes batches, and gives each of their callers one outcome, whatever happens."""

    def __init__(
        self,
        transactions: Transactions,
        queue: CommandQueue,
        part: Part,
        stats: WriterStats,
        publish: Publish,
    ) -> None:
        """`publish` is called with each batch on disk that has events, before its callers have
        their answers.
        """
        self.fatal: FairlogError | None = None  # why nothing more can be written
        self._transactions = transactions
        self._queue = queue
        self._part = part
        self._stats = stats
        self._publish = publish
        self._taken_at = 0.0  # time.monotonic()
        # The latest command of each type that could not be written, until one of that type is:
        # claims may fail while submissions succeed.
        self._failed: dict[type[Command], Command] = {}
        self._probed_at = 0.0  # time.monotonic()

    def write(self, batch: Sequence[Pending], taken_at: float) -> None:
        """Write a batch that was taken off the queue at this time.monotonic()."""
        self._taken_at = taken_at
        self._part.begins()
        try:
            self._process(batch, deadline=taken_at + BATCH_SECONDS_MAX)
        except BaseException:  # no caller may wait for ever
            self._queue.resolve(batch, [LogUnavailable(_OUTCOME_UNKNOWN)] * len(batch))
            raise

    def save(self) -> None:
        """Save the rows while no command waits."""
        self._part.begins()
        try:
            self._transactions.write([], saves=True)
        except Exception as error:  # noqa: BLE001 (it would fail a batch too)
            self._note_broken(error)
        else:
            self._part.works()

    def probe(self) -> None:
        """Test whether a batch could be written, and write nothing."""
        self._test(self._rehearsals() if self._part.is_failing else [])

    def _test(self, commands: Sequence[Command]) -> None:
        self._probed_at = time.monotonic()
        self._part.begins()
        try:
            self._transactions.probe(commands)
        except Exception as error:  # noqa: BLE001 (it would fail a batch too)
            self._note_broken(error)
        else:
            self._failed.clear()
            self._part.works()

    def _note_broken(self, error: Exception) -> None:
        """Note an error that no command is to blame for."""
        if isinstance(error, LogTooNew):
            self.fatal = error
        if not isinstance(error, LogFileReplaced) or self._transactions.is_busy():
            self._transactions.disconnect()
        self._part.fails(self._refusal_of_all(error) or error)

    def _note_failed(self, batch: Sequence[Pending], reason: str) -> None:
        for pending in batch:
            command = pending.command
            # A user's data may be the cause, so a command of our own takes its place.
            self._failed[type(command)] = _REHEARSAL if _has_user_data(command) else command
        self._part.fails(reason)

    def _note_written(self, batch: Sequence[Pending]) -> None:
        if self._failed:
            for pending in batch:
                self._failed.pop(type(pending.command), None)
        if not self._failed:
            self._part.works()
        elif time.monotonic() - self._probed_at > FAILING_PROBE_SECONDS:
            self.probe()  # no command of the failed type may come for long

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
        error.nothing_was_recorded = not self._transactions.in_doubt.has_any
        self._note_failed(batch, str(error).removesuffix(f" {_SEND_AGAIN}"))
        self._answer(batch, [error] * len(batch))
        # Commands that wait would have to wait as long again: they fail now.
        self._queue.fail_waiting(
            LogUnavailable(str(error), nothing_was_recorded=True),
            spared=SaveProjections if isinstance(error, ClockInDoubt) else None,
        )

    def _isolate(self, batch: Sequence[Pending], error: Exception, deadline: float) -> None:
        """Halve a refused batch until the command that the database refuses is alone.

        Not if an earlier try of it may be on disk: that is found by the commands of all.
        """
        if self._transactions.in_doubt.has_any:
            self._fail(batch, LogUnavailable(f"{explained(error)} {_SEND_AGAIN}"))
            return
        if len(batch) > 1 and time.monotonic() < deadline:
            middle = len(batch) // 2
            self._process(batch[:middle], deadline, is_part=True)
            self._process(batch[middle:], deadline, is_part=True)
            return
        commands = Counter(type(pending.command).__name__ for pending in batch)
        _log.error("command_failed", commands=dict(commands), exc_info=error)
        fault = fault_of(error)
        if len(batch) > 1 or is_for_everybody(error):
            reason = explained(error)
            self._part.fails(error)
        elif fault is Fault.REFUSED and not _has_user_data(batch[0].command):
            reason = refused_to_all(error)  # it holds no data of a user
            self._note_failed(batch, reason)
        else:
            self._answer(batch, [WriteFailed(_REFUSED if fault is Fault.REFUSED else _CRASHED)])
            self._test(self._rehearsals())  # others may fail, too
            return
        unavailable = LogUnavailable(f"{reason} {_SEND_AGAIN}", nothing_was_recorded=True)
        self._answer(batch, [unavailable] * len(batch))

    def _answer(self, batch: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
        self._transactions.in_doubt.forget()
        self._queue.resolve(batch, outcomes)

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
            self._stats.retries += 1
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries)
            pause = min(pause * 2, 0.5)

    def _write(self, batch: Sequence[Pending]) -> list[Outcome]:
        commands = [pending.command for pending in batch]
        done = self._transactions.write(commands, saves=self._part.is_failing)
        if done.recorded:
            self._publish(batch, done)
        return done.outcomes

    def _retry_until(
        self, error: Exception, deadline: float, *, is_part: bool, is_last: bool
    ) -> float:
        """Return until when to retry, as time.monotonic(). Raises the error if that cannot help."""
        fault = fault_of(error)
        # The same connection continues when the file is put back, or the clock is right.
        keeps = fault is Fault.REFUSED or isinstance(error, LogFileReplaced | ClockInDoubt)
        if not keeps or self._transactions.is_busy():
            self._transactions.disconnect()
        if isinstance(error, LogTooNew | LogFileReplaced):
            raise error
        if self._transactions.in_doubt.latest is not None:
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
            return self._transactions.row_beyond_head(self._rehearsals())
        except Exception as failed:  # noqa: BLE001 (the answer is unknown then)
            self._transactions.disconnect()
            if fault_of(failed) is Fault.REFUSED:
                return refused_to_all(failed)
            _log.warning("look_at_a_refusal_failed", reason=reason_of(failed))
            return None

    def _rehearsals(self) -> list[Command]:
        """Return the commands that failed, or a submission of our own, for a test."""
        return list(self._failed.values()) or [_REHEARSAL]


def _has_user_data(command: Command) -> bool:
    return isinstance(command, TakeOutbox) or body_bytes(command) > 0
