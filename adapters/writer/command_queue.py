"""The bounded queue in front of the writer, and the delivery of answers to their callers.

Submissions may fill most of it. The rest is reserved for commands that end running jobs: refusing
those would let finished work be repeated. If more commands wait than fit into a batch, users take
turns with their submissions, and every second place is for a command that is no submission: nobody
waits behind the thousands of another user. One user's submissions may fill at most half of the
capacity that others leave free.
"""

import asyncio
import contextlib
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from operator import attrgetter
from typing import Final, NamedTuple, TypeVar

from msgspec import Struct

from domain.decisions.answers import Answer
from domain.decisions.batch import Outcome
from domain.language.commands import (
    ClaimJobs,
    Command,
    CompleteJob,
    EnforceDeadlines,
    ExtendLeases,
    FailJob,
    RecoverJobs,
    ReportRefusals,
    SubmitJob,
    TakeOutbox,
    UpdateLine,
)
from domain.language.errors import QueueFull, fresh_copy, without_traceback
from domain.language.identifiers import UserId

COMMANDS_MAX: Final = 20_000  # waiting, submissions included
SUBMISSIONS_MAX: Final = 16_000  # waiting
BYTES_MAX: Final = 256 * 1024 * 1024  # of bodies waiting
SUBMISSION_BYTES_MAX: Final = 192 * 1024 * 1024  # of payloads waiting, part of BYTES_MAX
BATCH_COMMANDS_MAX: Final = 512
BATCH_JOBS_MAX: Final = 2000  # or kinds, named by a batch's commands: bounds the lock's time
# Escaping at most doubles the size of a statement, which must stay far below the default
# max_allowed_packet of MySQL and MariaDB, 16 MiB.
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024

_NO_OUTCOME: Final = QueueFull("no outcome yet")

R = TypeVar("R")

AnswerAll = Callable[[Sequence[tuple[int, Sequence[Outcome]]]], None]


class Ticket(NamedTuple):
    """The reply to a call of another process, by number: `answer_all` is called once a batch."""

    number: int
    answer_all: AnswerAll


class Call(Struct, eq=False):
    """Commands that were sent together and are answered together, each with its own outcome."""

    reply: "asyncio.Future[list[Outcome]] | Ticket"
    outcomes: list[Outcome]  # in the order of the commands; placeholders until they are known
    unanswered: int  # commands


class CallPart(NamedTuple):
    """The reply to one command of a call."""

    call: Call
    place: int


Reply = Future[Answer] | asyncio.Future[Answer] | CallPart


class Pending(Struct, gc=False):
    """A command that waits for its outcome."""

    command: Command
    bytes: int  # of its body
    reply: Reply
    since: float  # time.monotonic()
    number: int  # in the order of arrival
    is_answered: bool = False


class _Submissions(Struct, gc=False):
    """The waiting submissions of one user; never empty."""

    waiting: deque[Pending]
    bytes: int = 0


class CommandQueue:
    """A queue of commands. Any thread puts, the writer takes."""

    def __init__(
        self, *, commands_max: int = COMMANDS_MAX, submissions_max: int = SUBMISSIONS_MAX
    ) -> None:
        self._commands_max = commands_max
        self._submissions_max = submissions_max
        self._reports: deque[Pending] = (
            deque()
        )  # go first: they are few, and must be recorded within a second
        self._submissions: OrderedDict[UserId, _Submissions] = (
            OrderedDict()
        )  # in the order of turns
        self._submitted = 0  # their number
        self._others: deque[Pending] = deque()
        self._numbers = itertools.count()
        self._bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()  # its lock is re-entrant

    def __len__(self) -> int:
        return self._submitted + len(self._others) + len(self._reports)

    def oldest_seconds(self) -> float:
        """Return how long the oldest command has waited; 0 if none waits."""
        with self._changed:
            queues = [self._reports, self._others]
            queues += [of_user.waiting for of_user in self._submissions.values()]
            oldest = min((one[0].since for one in queues if one), default=None)
            return 0.0 if oldest is None else time.monotonic() - oldest

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    async def put_async(self, command: Command) -> Answer:
        """Return the writer's answer. Raises `QueueFull`, and the error that the writer gives."""
        reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._put(command, reply)
        try:
            return await reply
        finally:
            del reply  # it has the error that is raised here, see `again`

    def put(self, command: Command) -> Future[Answer]:
        reply: Future[Answer] = Future()
        self._put(command, reply)
        return reply

    def put_call(
        self, commands: Sequence[Command], reply: "asyncio.Future[list[Outcome]] | Ticket"
    ) -> None:
        """Queue commands that are answered together. The outcome of one that does not fit is
        `QueueFull`.
        """
        call = Call(reply, [_NO_OUTCOME] * len(commands), len(commands))
        with self._changed:  # the writer takes none of them before all are queued
            for place, command in enumerate(commands):
                try:
                    self._put(command, CallPart(call, place))
                except QueueFull as full:
                    call.outcomes[place] = without_traceback(full)
                    call.unanswered -= 1
            is_refused = not call.unanswered
        if is_refused:
            self._deliver([call])

    def _put(self, command: Command, reply: Reply) -> None:
        size = body_bytes(command)
        with self._changed:
            if self._is_closed:
                raise QueueFull("The server is stopping; send the request to another one.")
            if not self._fits(command, size):
                raise QueueFull("Too many requests are waiting to be written; try again shortly.")
            pending = Pending(command, size, reply, time.monotonic(), next(self._numbers))
            if isinstance(command, SubmitJob):
                of_user = self._submissions.get(command.user_id)
                if of_user is None:
                    of_user = self._submissions[command.user_id] = _Submissions(deque())
                of_user.waiting.append(pending)
                of_user.bytes += size
                self._submitted += 1
            elif isinstance(command, ReportRefusals):
                self._reports.append(pending)
            else:
                self._others.append(pending)
            self._bytes += size
            if len(self) == 1:
                self._changed.notify()

    def _fits(self, command: Command, size: int) -> bool:
        if not isinstance(command, SubmitJob):
            fits = not size or self._bytes + size <= BYTES_MAX
            return fits and len(self) < self._commands_max
        of_user = self._submissions.get(command.user_id)
        own, own_bytes = (0, 0) if of_user is None else (len(of_user.waiting), of_user.bytes)
        return (
            own < self._submissions_max - len(self)
            and own_bytes + size <= SUBMISSION_BYTES_MAX - self._bytes
        )

    def wait(self, seconds_max: float | None) -> bool:
        """Wait until `take` would not block. Return False after `seconds_max`."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self) or self._is_closed, seconds_max)

    def take(self) -> list[Pending]:
        """Remove and return what waits, up to the bounds of a batch: reports first, the rest in the
        order of arrival. Blocks for the first command; returns nothing once the queue is closed.
        """
        with self._changed:
            while not self and not self._is_closed:
                self._changed.wait()
            batch: list[Pending] = []
            while self._reports and len(batch) < BATCH_COMMANDS_MAX:
                batch.append(self._reports.popleft())
            batch += self._take_in_turn(BATCH_COMMANDS_MAX - len(batch))
            self._bytes -= sum(pending.bytes for pending in batch)
            return batch

    def _take_in_turn(self, most: int) -> list[Pending]:
        """Take at least one command, however large, if `most` is not 0."""
        taken: list[Pending] = []
        size = jobs = 0
        others_fit, is_others_turn = True, True
        while len(taken) < most:
            others = self._others if others_fit else None
            if others and (is_others_turn or not self._submissions):
                named = _jobs(others[0].command)
                if taken and (
                    jobs + named > BATCH_JOBS_MAX or size + others[0].bytes > BATCH_BYTES_MAX
                ):
                    others_fit = False  # no later command may overtake it
                    continue
                jobs += named
                pending = others.popleft()
            elif self._submissions:
                first = next(iter(self._submissions.values())).waiting[0]
                named = _jobs(first.command) - 1  # besides its own job
                is_too_much = named > 0 and jobs + named > BATCH_JOBS_MAX
                if taken and (is_too_much or size + first.bytes > BATCH_BYTES_MAX):
                    break
                jobs += named
                pending = self._take_submission()
            else:
                break
            is_others_turn = not is_others_turn
            size += pending.bytes
            taken.append(pending)
        taken.sort(key=_number)
        return taken

    def _take_submission(self) -> Pending:
        """Take the first submission of the user whose turn it is."""
        user_id, of_user = next(iter(self._submissions.items()))
        pending = of_user.waiting.popleft()
        of_user.bytes -= pending.bytes
        self._submitted -= 1
        if of_user.waiting:
            self._submissions.move_to_end(user_id)
        else:
            del self._submissions[user_id]
        return pending

    def close(self) -> None:
        """Refuse new commands; those that wait can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def fail_waiting(self, error: Exception, spared: type[Command] | None = None) -> None:
        """Remove all commands that wait, and give their callers this error; those of the type
        spared stay.
        """
        with self._changed:
            submitted = [one for of_user in self._submissions.values() for one in of_user.waiting]
            others = [one for one in self._others if type(one.command) is not spared]
            left = [one for one in self._others if type(one.command) is spared]
            waiting = [*self._reports, *others, *submitted]
            self._reports.clear()
            self._others = deque(left)
            self._submissions.clear()
            self._submitted = 0
            self._bytes = sum(body_bytes(one.command) for one in left)
        self.resolve(waiting, [error] * len(waiting))

    def resolve(self, batch: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
        """Give each caller its outcome, once. Wake each event loop once for all of its callers.

        One error may be the outcome of many commands: each caller gets a copy.
        """
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Answer], Outcome]]] = {}
        answered: list[Call] = []
        for pending, outcome in zip(batch, outcomes, strict=True):
            if pending.is_answered:
                continue
            pending.is_answered = True
            if isinstance(pending.reply, CallPart):
                call, place = pending.reply
                call.outcomes[place] = _copy(outcome)
                call.unanswered -= 1
                if not call.unanswered:
                    answered.append(call)
            elif isinstance(pending.reply, asyncio.Future):
                loop = pending.reply.get_loop()
                by_loop.setdefault(loop, []).append((pending.reply, _copy(outcome)))
            elif not pending.reply.set_running_or_notify_cancel():
                continue  # its caller has given up
            elif isinstance(outcome, Exception):
                pending.reply.set_exception(fresh_copy(outcome))
            else:
                pending.reply.set_result(outcome)
        self._deliver(answered)
        for loop, replies in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(_resolve_all, replies)

    def _deliver(self, calls: Sequence[Call]) -> None:
        """Give the callers of answered calls their outcomes."""
        by_recipient: dict[AnswerAll, list[tuple[int, Sequence[Outcome]]]] = {}
        for call in calls:
            if isinstance(call.reply, Ticket):
                number, answer_all = call.reply
                by_recipient.setdefault(answer_all, []).append((number, call.outcomes))
            else:
                with contextlib.suppress(RuntimeError):  # see `resolve`
                    call.reply.get_loop().call_soon_threadsafe(
                        resolve_reply, call.reply, call.outcomes
                    )
        for answer_all, numbered in by_recipient.items():
            answer_all(numbered)


def _resolve_all(replies: Sequence[tuple[asyncio.Future[Answer], Outcome]]) -> None:
    for reply, outcome in replies:
        resolve_reply(reply, outcome)


def _copy(outcome: Outcome) -> Outcome:
    return fresh_copy(outcome) if isinstance(outcome, Exception) else outcome


def resolve_reply(reply: "asyncio.Future[R]", outcome: R | Exception) -> None:
    """Give a caller on this event loop its outcome, if the caller still waits."""
    if reply.done():
        return
    if isinstance(outcome, Exception):
        reply.set_exception(outcome)
    else:
        reply.set_result(outcome)


_number: Final = attrgetter("number")


def _jobs(command: Command) -> int:
    """Return how many jobs, or lines of kinds, the command makes the writer read."""
    match command:
        case SubmitJob(after=parents):
            return 1 + len(parents)
        case ClaimJobs(max_jobs=jobs_max, kinds=kinds):
            return max(jobs_max, len(kinds or ()))
        case ExtendLeases(jobs=jobs) | EnforceDeadlines(jobs=jobs) | RecoverJobs(jobs=jobs):
            return len(jobs)
        case TakeOutbox(rows_max=rows_max):
            return rows_max
        case UpdateLine(users=users):
            return len(users)
        case _:
            return 1


def body_bytes(command: Command) -> int:
    """Return the size of the command's body, which is nearly all of the memory that it takes."""
    match command:
        case SubmitJob(payload=body) | FailJob(error=body):
            return body.size
        case CompleteJob(result=body) if body is not None:
            return body.size
        case _:
            return 0
