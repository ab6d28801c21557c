"""The bounded queue in front of the writer, and the way answers go back to their callers.

Submissions may fill most of it; the rest is kept for those who end what is running, since refusing
them would let finished work be done again.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple

from msgspec import Struct

from domain.batch import Outcome
from domain.commands import (
    ClaimJobs,
    Command,
    CompleteJob,
    ExtendLeases,
    FailJob,
    RecoverJobs,
    ReportRefusals,
    SubmitJob,
    WakeJobs,
)
from domain.decide import Answer
from domain.errors import QueueFull, again

COMMANDS_MAX: Final = 20_000  # waiting
SUBMISSIONS_MAX: Final = 16_000  # waiting, of which
BYTES_MAX: Final = 256 * 1024 * 1024  # of bodies waiting
SUBMISSION_BYTES_MAX: Final = 192 * 1024 * 1024  # of payloads waiting, of which
BATCH_COMMANDS_MAX: Final = 256
BATCH_JOBS_MAX: Final = 2000  # that a batch's commands name or ask for: the lock is held for all
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
    is_answered: bool = False


class CommandQueue:
    """Any thread puts in, the writer takes out."""

    def __init__(
        self, *, commands_max: int = COMMANDS_MAX, submissions_max: int = SUBMISSIONS_MAX
    ) -> None:
        self._commands_max = commands_max
        self._submissions_max = submissions_max
        self._reports: deque[Pending] = deque()  # go first: few, and promised within a second
        self._waiting: deque[Pending] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._reports)

    def oldest_seconds(self) -> float:
        """How long the oldest waiting command has waited; 0 when none waits."""
        with self._changed:
            oldest = [one[0].since for one in (self._reports, self._waiting) if one]
            return time.monotonic() - min(oldest) if oldest else 0.0

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
        is_submission = isinstance(command, SubmitJob)
        most = self._submissions_max if is_submission else self._commands_max
        bytes_most = SUBMISSION_BYTES_MAX if is_submission else BYTES_MAX
        with self._changed:
            if self._is_closed:
                raise QueueFull("The server is stopping; send the request to another one.")
            if len(self) >= most or (size and self._bytes + size > bytes_most):
                raise QueueFull("Too many requests are waiting to be written; try again shortly.")
            queue = self._reports if isinstance(command, ReportRefusals) else self._waiting
            queue.append(Pending(command, size, reply, time.monotonic()))
            self._bytes += size
            if len(self) == 1:
                self._changed.notify()

    def wait(self, seconds_max: float | None) -> bool:
        """Wait until `take` would not block; returns False when nothing came for so long."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self) or self._is_closed, seconds_max)

    def take(self) -> list[Pending]:
        """All that waits, up to the bounds of a batch; blocks for the first. Empty: closed."""
        with self._changed:
            while not self and not self._is_closed:
                self._changed.wait()
            batch: list[Pending] = []
            while self._reports and len(batch) < BATCH_COMMANDS_MAX:
                batch.append(self._reports.popleft())
            size = jobs = 0
            while self._waiting and len(batch) < BATCH_COMMANDS_MAX:
                size += self._waiting[0].bytes
                jobs += _jobs(self._waiting[0].command)
                if batch and (size > BATCH_BYTES_MAX or jobs > BATCH_JOBS_MAX):
                    break
                batch.append(self._waiting.popleft())
            self._bytes -= sum(pending.bytes for pending in batch)
            return batch

    def close(self) -> None:
        """Refuse what comes from now on; what waits can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def fail_waiting(self, error: Exception) -> None:
        with self._changed:
            waiting = [*self._reports, *self._waiting]
            self._reports.clear()
            self._waiting.clear()
            self._bytes = 0
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
                pending.reply.set_exception(again(outcome))
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
    return again(outcome) if isinstance(outcome, Exception) else outcome


def settle(reply: asyncio.Future[Answer], outcome: Outcome) -> None:
    """Give a caller on this event loop its outcome, if it still waits."""
    if reply.done():
        return
    if isinstance(outcome, Exception):
        reply.set_exception(outcome)
    else:
        reply.set_result(outcome)


def _jobs(command: Command) -> int:
    match command:
        case ClaimJobs(max_jobs=jobs_max):
            return jobs_max
        case ExtendLeases(jobs=jobs) | WakeJobs(jobs=jobs) | RecoverJobs(jobs=jobs):
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
