"""The calls that wait for the writer process, from their admission to their answer.

If no call is answered for ANSWER_SECONDS_MAX, all get `LogUnavailable`; what was not sent by then
is never sent. A call that has waited for LOST_SECONDS_MAX while others are answered gets it too: an
answer can be lost, for example for lack of memory. If the answer to such a call arrives later,
nobody has the jobs that it claimed, and they are to be returned.
"""

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from adapters.writer.command_queue import BYTES_MAX, COMMANDS_MAX, body_bytes, resolve_reply
from adapters.writer.writer_frames import ANSWER_SECONDS_MAX
from domain.decisions.answers import Claimed
from domain.decisions.batch import Outcome
from domain.language.commands import ClaimJobs, Command, ReturnJob
from domain.language.errors import FairlogError, LogUnavailable, fresh_copy

# The writer retries a batch for up to 3 s; the last try may take the time-outs of connecting and of
# a statement more. Commands that wait when the time is over fail with that batch.
LOST_SECONDS_MAX: Final = 20.0
NO_ANSWER: Final = (
    "The server's writer does not answer; the request may be sent again, with the same idempotency "
    "key it never runs twice."
)

_log = structlog.get_logger()


class _Call(Struct, gc=False):
    commands: Sequence[Command]
    reply: "asyncio.Future[list[Outcome]]"
    since: float  # time.monotonic()


class WaitingCalls:
    """Calls by their numbers, until they are answered or given up: the module says when.

    Used on one event loop; any thread may ask for `commands`, `oldest_seconds` and
    `unanswered_seconds`.
    """

    def __init__(self) -> None:
        self.commands = 0  # in all calls
        self._by_number: dict[int, _Call] = {}  # oldest first
        self._unsent: list[tuple[int, Sequence[Command]]] = []
        self._unsent_bytes = 0  # of bodies
        self._unclaimed: set[int] = set()  # claims whose callers got `LogUnavailable`
        self._answered_at = 0.0  # the latest answer, time.monotonic()
        # time.monotonic() at which waiting callers were failed; None once an answer arrives
        self._gave_up_at: float | None = None

    def admit(self, command: Command) -> bool:
        """Count a command as waiting. Returns False if too many wait already."""
        size = body_bytes(command)
        if self.commands >= COMMANDS_MAX or self._unsent_bytes + size > BYTES_MAX:
            return False
        self.commands += 1
        self._unsent_bytes += size
        return True

    def add(
        self, number: int, commands: Sequence[Command], reply: "asyncio.Future[list[Outcome]]"
    ) -> bool:
        """Add a call of admitted commands. Returns True if it is the only one that is not sent."""
        self._by_number[number] = _Call(commands, reply, time.monotonic())
        self._unsent.append((number, commands))
        return len(self._unsent) == 1

    def take_unsent(self) -> list[tuple[int, Sequence[Command]]]:
        """Return the calls that are to be sent now, by number."""
        unsent, self._unsent = self._unsent, []
        self._unsent_bytes = 0
        return unsent

    def note_answer(self) -> None:
        """Note that the process answers, whatever it answers."""
        self._answered_at = time.monotonic()
        self._gave_up_at = None

    def answer(self, number: int, outcomes: list[Outcome]) -> Sequence[ReturnJob]:
        """Answer a call. Returns what is to be done with the jobs of a claim that came late."""
        if (call := self._take(number)) is not None:
            resolve_reply(call.reply, outcomes)
            return ()
        if number not in self._unclaimed:
            return ()
        self._unclaimed.discard(number)
        claimed = [job for one in outcomes if isinstance(one, Claimed) for job in one.jobs]
        return [ReturnJob(job_id=job.id, attempt=job.attempt) for job in claimed]

    def oldest_seconds(self) -> float:
        """Return how long the oldest call has waited; 0 if none waits."""
        calls = list(self._by_number.values())
        return time.monotonic() - calls[0].since if calls else 0.0

    def unanswered_seconds(self) -> float | None:
        """Return for how long nothing has been answered, once callers were given up; else None."""
        gave_up_at = self._gave_up_at  # the loop may change it meanwhile
        return None if gave_up_at is None else time.monotonic() - gave_up_at + ANSWER_SECONDS_MAX

    def give_up_late(self) -> None:
        """Fail the calls that have waited for too long."""
        if self._silent_seconds() > ANSWER_SECONDS_MAX:
            self._gave_up_at = time.monotonic()
            self._give_up(list(self._by_number))
        else:
            longest = time.monotonic() - LOST_SECONDS_MAX
            calls = self._by_number.items()
            lost = itertools.takewhile(lambda one: one[1].since < longest, calls)
            self._give_up([number for number, _ in lost])

    def fail_sent(self, error: FairlogError) -> None:
        """Fail what was sent: the process has ended, and the outcomes are unknown."""
        self._gave_up_at = None
        self._unclaimed.clear()
        unsent = {number for number, _ in self._unsent}
        self._fail([number for number in self._by_number if number not in unsent], error)

    def fail_all(self, error: FairlogError) -> None:
        self._fail(list(self._by_number), error)

    def _silent_seconds(self) -> float:
        """Return how long callers have waited while none was answered."""
        if not self._by_number:
            return 0.0
        oldest = next(iter(self._by_number.values())).since
        return time.monotonic() - max(oldest, self._answered_at)

    def _give_up(self, numbers: Sequence[int]) -> None:
        """Fail these calls for lack of an answer."""
        if not numbers:
            return
        given_up = set(numbers)
        unsent = {number for number, _ in self._unsent if number in given_up}
        self._unsent = [one for one in self._unsent if one[0] not in unsent]
        self._unsent_bytes = sum(
            body_bytes(command) for _, commands in self._unsent for command in commands
        )
        calls = {number: call for number in numbers if (call := self._take(number))}
        _log.error(
            "writer_does_not_answer",
            commands=sum(len(call.commands) for call in calls.values()),
            unsent=sum(len(call.commands) for number, call in calls.items() if number in unsent),
        )
        for number, call in calls.items():
            if number not in unsent and any(map(_cannot_be_repeated, call.commands)):
                self._unclaimed.add(number)
            _fail(call, LogUnavailable(NO_ANSWER, nothing_was_recorded=number in unsent))

    def _fail(self, numbers: Iterable[int], error: FairlogError) -> None:
        for number in numbers:
            if (call := self._take(number)) is not None:
                _fail(call, error)

    def _take(self, number: int) -> _Call | None:
        """Remove and return a call; None if its caller was given up."""
        call = self._by_number.pop(number, None)
        if call is not None:
            self.commands -= len(call.commands)
        return call


def _cannot_be_repeated(command: Command) -> bool:
    """Return True for a claim whose caller cannot request its jobs again."""
    return isinstance(command, ClaimJobs) and command.claim_id is None


def _fail(call: _Call, error: FairlogError) -> None:
    outcomes: list[Outcome] = [fresh_copy(error) for _ in call.commands]
    resolve_reply(call.reply, outcomes)
