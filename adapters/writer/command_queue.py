"""The bounded queue in front of the writer, and the way answers go back to their callers.

Submissions may fill most of it; the rest is kept for those who end what is running, since refusing
them would let finished work be done again. Where more waits than a batch takes, users take turns
with their submissions, and every other place is for what is no submission: nobody waits behind the
thousands of somebody else. A user's submissions may fill no more of the queue than they leave free.
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
from typing import Final, NamedTuple

from msgspec import Struct

from domain.decisions.batch import Outcome
from domain.decisions.decide import Answer
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
)
from domain.language.errors import QueueFull, fresh_copy
from domain.language.identifiers import UserId

COMMANDS_MAX: Final = 20_000  # waiting
SUBMISSIONS_MAX: Final = 16_000  # waiting, of which
BYTES_MAX: Final = 256 * 1024 * 1024  # of bodies waiting
SUBMISSION_BYTES_MAX: Final = 192 * 1024 * 1024  # of payloads waiting, of which
BATCH_COMMANDS_MAX: Final = 256
BATCH_JOBS_MAX: Final = 2000  # or kinds, that a batch's commands name: the lock is held for all
# A statement doubles in size at worst when it is escaped, and must stay far below the
# max_allowed_packet of 16 MiB that MySQL and MariaDB come with.
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024

AnswerAll = Callable[[Sequence[tuple[int, Outcome]]], None]


class Ticket(NamedTuple):
    """The reply to a caller in another process: by number, all of a batch at once."""

    number: int
    answer_all: AnswerAll


Reply = Future[Answer] | asyncio.Future[Answer] | Ticket


class Pending(Struct, gc=False):
    """A command that waits for its answer."""

    command: Command
    bytes: int  # of its body
    reply: Reply
    since: float  # time.monotonic()
    number: int  # in the order of arrival
    is_answered: bool = False


class _Submissions(Struct, gc=False):
    """What one user has submitted; never empty."""

    waiting: deque[Pending]
    bytes: int = 0


class CommandQueue:
    """Any thread puts in, the writer takes out."""

    def __init__(
        self, *, commands_max: int = COMMANDS_MAX, submissions_max: int = SUBMISSIONS_MAX
    ) -> None:
        self._commands_max = commands_max
        self._submissions_max = submissions_max
        self._reports: deque[Pending] = deque()  # go first: few, and promised within a second
        self._submissions: OrderedDict[UserId, _Submissions] = OrderedDict()  # in turn
        self._submitted = 0  # how many those are together
        self._others: deque[Pending] = deque()
        self._numbers = itertools.count()
        self._bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._submitted + len(self._others) + len(self._reports)

    def oldest_seconds(self) -> float:
        """How long the oldest waiting command has waited; 0 when none waits."""
        with self._changed:
            queues = [self._reports, self._others]
            queues += [of_user.waiting for of_user in self._submissions.values()]
            oldest = min((one[0].since for one in queues if one), default=None)
            return 0.0 if oldest is None else time.monotonic() - oldest

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    async def put_async(self, command: Command) -> Answer:
        """Raises `QueueFull`; else what the writer answers."""
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

    def put_for(self, ticket: Ticket, command: Command) -> None:
        """Raises `QueueFull`; else the ticket is answered."""
        self._put(command, ticket)

    def _put(self, command: Command, reply: Reply) -> None:
        size = body_bytes(command)
        with self._changed:
            if self._is_closed:
                raise QueueFull("The server is stopping; send the request to another one.")
            if not self._has_room(command, size):
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

    def _has_room(self, command: Command, size: int) -> bool:
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
        """Wait until `take` would not block; returns False when nothing came for so long."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self) or self._is_closed, seconds_max)

    def take(self) -> list[Pending]:
        """All that waits, up to the bounds of a batch, in the order of arrival behind the reports;
        blocks for the first. Empty: closed.
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
        """At least one command, however large, if `most` is not 0."""
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
                    others_fit = False  # later ones must not overtake it
                    continue
                jobs += named
                pending = others.popleft()
            elif self._submissions:
                first = next(iter(self._submissions.values())).waiting[0]
                if taken and size + first.bytes > BATCH_BYTES_MAX:
                    break
                pending = self._take_submission()
            else:
                break
            is_others_turn = not is_others_turn
            size += pending.bytes
            taken.append(pending)
        taken.sort(key=_number)
        return taken

    def _take_submission(self) -> Pending:
        """Of the user whose turn it is, the first."""
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
        """Refuse what comes from now on; what waits can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def fail_waiting(self, error: Exception) -> None:
        with self._changed:
            submitted = [one for of_user in self._submissions.values() for one in of_user.waiting]
            waiting = [*self._reports, *self._others, *submitted]
            self._reports.clear()
            self._others.clear()
            self._submissions.clear()
            self._submitted = self._bytes = 0
        self.resolve(waiting, [error] * len(waiting))

    def resolve(self, batch: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
        """Give each caller its outcome, waking each event loop once for all of its callers.

        One error may be the outcome of many: each caller has one of its own. Who has had an answer
        gets no other.
        """
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Answer], Outcome]]] = {}
        by_desk: dict[AnswerAll, list[tuple[int, Outcome]]] = {}
        for pending, outcome in zip(batch, outcomes, strict=True):
            if pending.is_answered:
                continue
            pending.is_answered = True
            if isinstance(pending.reply, Ticket):
                number, answer_all = pending.reply
                by_desk.setdefault(answer_all, []).append((number, outcome))
            elif isinstance(pending.reply, asyncio.Future):
                loop = pending.reply.get_loop()
                by_loop.setdefault(loop, []).append((pending.reply, _own(outcome)))
            elif not pending.reply.set_running_or_notify_cancel():
                continue  # its caller went away
            elif isinstance(outcome, Exception):
                pending.reply.set_exception(fresh_copy(outcome))
            else:
                pending.reply.set_result(outcome)
        for answer_all, numbered in by_desk.items():
            answer_all(numbered)
        for loop, replies in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits on it
                loop.call_soon_threadsafe(_resolve_all, replies)


def _resolve_all(replies: Sequence[tuple[asyncio.Future[Answer], Outcome]]) -> None:
    for reply, outcome in replies:
        settle(reply, outcome)


def _own(outcome: Outcome) -> Outcome:
    return fresh_copy(outcome) if isinstance(outcome, Exception) else outcome


def settle(reply: asyncio.Future[Answer], outcome: Outcome) -> None:
    """Give a caller on this event loop its outcome, if it still waits."""
    if reply.done():
        return
    if isinstance(outcome, Exception):
        reply.set_exception(outcome)
    else:
        reply.set_result(outcome)


_number: Final = attrgetter("number")


def _jobs(command: Command) -> int:
    """How many jobs, or lines of kinds, have to be looked at for it."""
    match command:
        case ClaimJobs(max_jobs=jobs_max, kinds=kinds):
            return max(jobs_max, len(kinds or ()))
        case ExtendLeases(jobs=jobs) | EnforceDeadlines(jobs=jobs) | RecoverJobs(jobs=jobs):
            return len(jobs)
        case _:
            return 1


def body_bytes(command: Command) -> int:
    """What a command takes of memory beside a few hundred bytes."""
    match command:
        case SubmitJob(payload=body) | FailJob(error=body):
            return body.size
        case CompleteJob(result=body) if body is not None:
            return body.size
        case _:
            return 0
