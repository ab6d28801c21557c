"""The write path in a process of its own, as the server sees it.

An event loop and a writer in one process share its interpreter lock and wait for each other; in two
processes each has a core. The child has the same settings and runs the same writer
(`entrypoints.processes.writer_main`).

It sends a response at least once a second. If it answers no command for ANSWER_SECONDS_MAX, all
waiting callers get `LogUnavailable`; what was not sent by then is never sent, and the child does
not carry out what it reads later than that. A caller who has waited for LOST_SECONDS_MAX while
others are answered gets it too: an answer can be lost, for example for lack of memory.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from adapters.processes.child_process import STOP_SECONDS_MAX, ChildProcess
from adapters.processes.forks import keep_from_children
from adapters.processes.frames import Frames, encode_frame
from adapters.supervision import Supervisor, Trouble, reason_of
from adapters.writer.command_queue import BYTES_MAX, COMMANDS_MAX, body_bytes, resolve_reply
from adapters.writer.writer import Observer, WriterStats, errors_logged
from adapters.writer.writer_frames import (
    ANSWER_SECONDS_MAX,
    WriterHello,
    WriterRequest,
    WriterResponse,
    received_outcome,
    response_decoder,
)
from domain.decisions.batch import Outcome
from domain.decisions.decide import Answer, Claimed
from domain.language.commands import ClaimJobs, Command, ReturnJob
from domain.language.errors import FairlogError, LogUnavailable, QueueFull, fresh_copy

START_SECONDS_MAX: Final = 60.0  # until its first response; usual: 1
SILENT_SECONDS_MAX: Final = 3.0  # without a response, of which it sends one each second
SILENT_STOP_SECONDS_MAX: Final = 1.0  # for a silent process to end
LOST_SECONDS_MAX: Final = 20.0  # a batch is answered within 3 s, and so are those behind it
_CHECK_SECONDS: Final = 0.25
_HELD_BYTES_MAX: Final = 256 * 1024  # buffered by the event loop for a process that does not read
_NO_ANSWER: Final = (
    "The server's writer does not answer; the request may be sent again, with the same idempotency "
    "key it never runs twice."
)

_log = structlog.get_logger()


class _Waiting(Struct, gc=False):
    command: Command
    reply: "asyncio.Future[Answer]"
    since: float  # time.monotonic()


class WriterProcess:
    """A `WritePath` with the writer in a child process, which `command` runs.

    `execute_all` is for the time before the event loop, `execute` for the time after `attach`.
    """

    def __init__(
        self, command: Sequence[str], hello: WriterHello, supervisor: Supervisor | None = None
    ) -> None:
        self._supervisor = Supervisor() if supervisor is None else supervisor
        self._supervisor.add_probe(self._trouble)
        self._received_at: float | None = None  # the latest response, time.monotonic()
        self._answered_at = 0.0  # the latest answer
        # time.monotonic() at which waiting callers were failed; None once an answer arrives
        self._gave_up_at: float | None = None
        self._unclaimed: set[int] = set()  # claims whose callers got `LogUnavailable`
        self._held_bytes = 0  # of bodies that are not sent
        self._is_full = False  # the child does not read its socket
        self.stats = WriterStats()
        self.fatal: FairlogError | None = None
        self._command = command
        self._hello = hello
        self._observers: list[Observer] = []
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._outgoing: list[tuple[int, Command]] = []  # since the loop's last turn
        self._decoder = response_decoder()
        self._child: ChildProcess | None = None
        self._attaching = asyncio.Lock()
        self._transport: asyncio.WriteTransport | None = None
        self._is_stopping = False

    def start(self) -> None:
        self._child = ChildProcess(self._command, self._hello)
        keep_from_children(self)
        self._child.socket.settimeout(START_SECONDS_MAX)

    def stop(self) -> None:
        # A process that was stopped by a signal, or hangs, does not see that its socket closes.
        seconds_max = STOP_SECONDS_MAX if self._trouble() is None else SILENT_STOP_SECONDS_MAX
        self._is_stopping = True
        if self._child is not None:
            self._child.stop(seconds_max)

    def descriptors(self) -> Iterable[int]:
        return [] if self._child is None else [self._child.socket.fileno()]

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def waiting(self) -> int:
        return len(self._waiting)

    def oldest_seconds(self) -> float:
        waiting = list(self._waiting.values())
        return time.monotonic() - waiting[0].since if waiting else 0.0

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        assert self._child is not None, "start it first"
        assert self._transport is None, "the event loop has the socket"
        asked = [(next(self._numbers), command) for command in commands]
        outcomes: dict[int, Outcome] = {}
        if not asked:
            return []
        with contextlib.suppress(OSError):  # the process has ended, which reading shows as well
            self._child.socket.sendall(encode_frame(WriterRequest(asked, time.monotonic())))
        try:
            for response in Frames(self._child.socket, self._decoder):
                self._receive(response)
                outcomes.update(
                    (number, received_outcome(sent)) for number, sent in response.outcomes
                )
                if len(outcomes) == len(asked):
                    return [outcomes[number] for number, _ in asked]
        except TimeoutError:
            raise LogUnavailable(_NO_ANSWER) from None
        raise self._ended()

    async def execute(self, command: Command) -> Answer:
        await self.attach()
        if self.fatal is not None or self._is_stopping:
            raise LogUnavailable("The server is stopping.")
        reply = self._request(command)
        try:
            return await reply
        finally:
            del reply  # it has the error that is raised here, see `again`

    def _request(self, command: Command) -> "asyncio.Future[Answer]":
        """Send the command with the others of this turn of the loop. Raises `QueueFull`."""
        size = body_bytes(command)
        if len(self._waiting) >= COMMANDS_MAX or self._held_bytes + size > BYTES_MAX:
            raise QueueFull("Too many requests are waiting to be written; try again shortly.")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Answer] = loop.create_future()
        number = next(self._numbers)
        self._waiting[number] = _Waiting(command, reply, time.monotonic())
        self._outgoing.append((number, command))
        self._held_bytes += size
        if len(self._outgoing) == 1:  # with the others of this turn
            loop.call_soon(self._send)
        return reply

    async def attach(self) -> None:
        if self._transport is not None:
            return
        async with self._attaching:
            if self._transport is None:
                assert self._child is not None, "start it first"
                self._child.socket.setblocking(False)  # noqa: FBT003 (its own signature)
                self._transport, _ = await asyncio.get_running_loop().create_unix_connection(
                    lambda: _Listener(self), sock=self._child.socket
                )
                self._transport.set_write_buffer_limits(_HELD_BYTES_MAX)
                asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check_answers)

    def _send(self) -> None:
        if self._is_full:
            return  # `set_reading` sends them, unless their callers have given up by then
        asked, self._outgoing = self._outgoing, []
        self._held_bytes = 0
        if asked:  # else the process was lost meanwhile, and their callers have the error
            assert self._transport is not None
            self._transport.write(encode_frame(WriterRequest(asked, time.monotonic())))

    def set_reading(self, *, is_reading: bool) -> None:
        """Note whether the process reads what it is sent."""
        self._is_full = not is_reading
        if is_reading:
            self._send()

    def _check_answers(self) -> None:
        """Give up on what was not answered in time; runs every _CHECK_SECONDS."""
        if not self._is_stopping and self.fatal is None:
            asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check_answers)
        if self._silent_seconds() > ANSWER_SECONDS_MAX:
            self._gave_up_at = time.monotonic()
            self._give_up(list(self._waiting))
        else:
            longest = time.monotonic() - LOST_SECONDS_MAX
            lost = itertools.takewhile(lambda one: one[1].since < longest, self._waiting.items())
            self._give_up([number for number, _ in lost])

    def _silent_seconds(self) -> float:
        """Return how long callers have waited while none was answered."""
        if not self._waiting:
            return 0.0
        oldest = next(iter(self._waiting.values())).since
        return time.monotonic() - max(oldest, self._answered_at)

    def _give_up(self, numbers: Sequence[int]) -> None:
        """Fail these commands for lack of an answer."""
        if not numbers:
            return
        given_up = set(numbers)
        unsent = {number for number, _ in self._outgoing if number in given_up}
        self._outgoing = [one for one in self._outgoing if one[0] not in unsent]
        self._held_bytes = sum(body_bytes(command) for _, command in self._outgoing)
        _log.error("writer_does_not_answer", commands=len(numbers), unsent=len(unsent))
        for number in numbers:
            one = self._waiting.pop(number)
            if number not in unsent and isinstance(one.command, ClaimJobs):
                self._note_unclaimed(number, one.command)
            error = LogUnavailable(_NO_ANSWER, nothing_was_recorded=number in unsent)
            resolve_reply(one.reply, error)

    def _note_unclaimed(self, number: int, command: ClaimJobs) -> None:
        if command.claim_id is None:  # else the caller may repeat the claim, and gets its answer
            self._unclaimed.add(number)

    def _answered_late(self, number: int, outcome: Outcome) -> None:
        """Return the jobs of a late claim, whose caller has given up."""
        if number in self._unclaimed:
            self._unclaimed.discard(number)
            if isinstance(outcome, Claimed):
                for job in outcome.jobs:
                    self._request_unawaited(ReturnJob(job_id=job.id, attempt=job.attempt))

    def _request_unawaited(self, command: Command) -> None:
        try:
            reply = self._request(command)
        except QueueFull:
            return  # the jobs are served again when their leases end
        reply.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _trouble(self) -> Trouble | None:
        """Return why the process does not work, as a part of this server; None if it does."""
        now = time.monotonic()
        if self._child is None or self._is_stopping:
            return None
        if self._received_at is None:
            return Trouble("writer_process", "The writer process is starting.", 0.0)
        silent = now - self._received_at
        if silent > SILENT_SECONDS_MAX and self._transport is not None:
            return Trouble(
                "writer_process", f"The writer process has been silent for {silent:.0f} s.", silent
            )
        if self._gave_up_at is not None:
            seconds = now - self._gave_up_at + ANSWER_SECONDS_MAX
            return Trouble(
                "writer_process", f"The writer has answered nothing for {seconds:.0f} s.", seconds
            )
        return None

    def received(self, piece: bytes) -> None:
        for response in self._decoder.feed(piece):
            try:
                self._handle(response)
            except Exception as error:  # noqa: BLE001 (the next response may be fine)
                _log.error("frame_failed", reason=reason_of(error), exc_info=error)

    def _handle(self, response: WriterResponse) -> None:
        self._receive(response)
        if response.outcomes:
            self._answered_at = time.monotonic()
            self._gave_up_at = None
        for number, sent in response.outcomes:
            outcome = received_outcome(sent)
            waiting = self._waiting.pop(number, None)
            if waiting is None:
                self._answered_late(number, outcome)
            else:
                resolve_reply(waiting.reply, outcome)

    def lost(self) -> None:
        """Fail all commands: the process has ended, and their outcomes are unknown."""
        error = self._ended()
        self._outgoing.clear()
        self._held_bytes = 0
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            resolve_reply(one.reply, fresh_copy(error))

    def _receive(self, response: WriterResponse) -> None:
        self._received_at = time.monotonic()
        self.stats = response.stats
        self._supervisor.set_reported(response.troubles)
        for written in response.written:
            for observer in self._observers:
                with errors_logged():
                    observer(written)
        if response.fatal is not None:
            fatal = response.fatal.restored()
            assert isinstance(fatal, FairlogError), fatal
            self.fatal = fatal

    def _ended(self) -> LogUnavailable:
        if self.fatal is None and not self._is_stopping:
            self.fatal = FairlogError(
                "The writer process has ended; the lines above may say why. Start the server again."
            )
        return LogUnavailable(
            "The server's writer has ended; the request may be sent again, with the same "
            "idempotency key it never runs twice."
        )


class _Listener(asyncio.Protocol):
    """The event loop's protocol for the socket to the process."""

    def __init__(self, process: WriterProcess) -> None:
        self._process = process

    def data_received(self, data: bytes) -> None:
        self._process.received(data)

    def pause_writing(self) -> None:
        self._process.set_reading(is_reading=False)

    def resume_writing(self) -> None:
        self._process.set_reading(is_reading=True)

    def connection_lost(self, _: Exception | None) -> None:
        self._process.lost()
