"""The write path in a process of its own, as the server sees it.

An event loop and a writer in one process share its interpreter lock and wait for each other; in two
processes each has a core. The child has the same settings and runs the same writer
(`entrypoints.processes.writer_main`).

It sends a response at least once a second. Callers who wait for too long get an error (see
`waiting_calls.py`), and the child does not carry out what it reads later than ANSWER_SECONDS_MAX.

If the child ends without having said why, it is started again (`Restarts`). The callers of commands
that it was sent get `LogUnavailable`, since nobody knows whether they are on disk; commands that
were not sent wait for the next child.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog
from msgspec.structs import replace

from adapters.supervision import Supervisor, Trouble, reason_of
from adapters.writer.restarts import Restarts
from adapters.writer.waiting_calls import LOST_SECONDS_MAX, NO_ANSWER, WaitingCalls
from adapters.writer.write_path import Observer, WriterStats, errors_logged
from adapters.writer.writer_frames import (
    WriterHello,
    WriterRequest,
    WriterResponse,
    received_outcomes,
    response_decoder,
)
from domain.decisions.answers import Answer
from domain.decisions.batch import Outcome
from domain.language.commands import Command
from domain.language.errors import FairlogError, LogUnavailable, QueueFull
from fairlog_client.processes.child import STOP_SECONDS_MAX, ChildProcess
from fairlog_client.processes.forks import keep_from_children
from fairlog_client.processes.frames import Frames, encode_frame

START_SECONDS_MAX: Final = 60.0  # until its first response; usual: 1
SILENT_SECONDS_MAX: Final = 3.0  # without a response, of which it sends one each second
SILENT_STOP_SECONDS_MAX: Final = 1.0  # for a silent process to end
_CHECK_SECONDS: Final = 0.25
_HELD_BYTES_MAX: Final = 256 * 1024  # buffered by the event loop for a process that does not read
_FULL: Final = "Too many requests are waiting to be written; try again shortly."

_log = structlog.get_logger()


class WriterProcess:
    """A `WritePath` with the writer in a child process, which `command` runs.

    `execute` is for the event loop, and `execute_all` for other threads, or for the time before
    there is a loop.
    """

    def __init__(
        self,
        command: Sequence[str],
        hello: WriterHello,
        supervisor: Supervisor | None = None,
        restarts: Restarts | None = None,
    ) -> None:
        self._supervisor = Supervisor() if supervisor is None else supervisor
        self._supervisor.add_probe(self._trouble)
        # The latest response of this process, time.monotonic(); None: it has sent none yet.
        self._received_at: float | None = None
        self._is_held_back = False  # nothing is sent: the child reads nothing, or there is none
        self.stats = WriterStats()
        self.fatal: FairlogError | None = None
        self.host_changed: Callable[[str], None] = lambda _: None  # with the host that it uses
        self._command = command
        self._hello = hello
        self._known = hello.known
        self._host = hello.host
        self._observers: list[Observer] = []
        self._numbers = itertools.count()
        self._calls = WaitingCalls()
        self._decoder = response_decoder()
        self._child: ChildProcess | None = None
        self._attaching = asyncio.Lock()
        self._transport: asyncio.WriteTransport | None = None  # None: not attached, or lost
        self._loop: asyncio.AbstractEventLoop | None = None  # once it has the socket
        self._restarts = restarts or Restarts()
        self._restarting: asyncio.Task[None] | None = None
        self._began_at = 0.0  # when the latest process was started, time.monotonic()
        self._lost_at = 0.0  # when the latest process ended, likewise
        self._is_stopping = False

    def start(self) -> None:
        self._began_at = time.monotonic()
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
        return self._calls.commands

    def oldest_seconds(self) -> float:
        return self._calls.oldest_seconds()

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        assert self._child is not None, "start it first"
        if not commands:
            return []
        if self._loop is not None:  # which has the socket
            executed = asyncio.run_coroutine_threadsafe(self.execute_each(commands), self._loop)
            try:
                return executed.result(LOST_SECONDS_MAX)
            except TimeoutError:
                executed.cancel()
                raise LogUnavailable(NO_ANSWER) from None
        number = next(self._numbers)
        request = WriterRequest([(number, commands)], time.monotonic())
        with contextlib.suppress(OSError):  # the process has ended, which reading shows as well
            self._child.socket.sendall(encode_frame(request))
        try:
            for response in Frames(self._child.socket, self._decoder):
                self._receive(response)
                for answered, sent in response.outcomes:
                    if answered == number:
                        return received_outcomes(sent)
        except TimeoutError:
            raise LogUnavailable(NO_ANSWER) from None
        if self.fatal is None and not self._is_stopping:
            self.fatal = FairlogError(
                "The writer process has ended; the lines above may say why. Start the server again."
            )
        raise self._ended()

    async def execute(self, command: Command) -> Answer:
        [outcome] = await self.execute_each([command])
        try:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        finally:
            del outcome  # its traceback holds this frame, see `without_traceback`

    async def execute_each(self, commands: Sequence[Command]) -> list[Outcome]:
        await self.attach()
        if self.fatal is not None or self._is_stopping:
            return [LogUnavailable("The server is stopping.") for _ in commands]
        outcomes: list[Outcome] = [QueueFull(_FULL) for _ in commands]
        admitted = [place for place, command in enumerate(commands) if self._calls.admit(command)]
        if admitted:
            answered = await self._call([commands[place] for place in admitted])
            for place, outcome in zip(admitted, answered, strict=True):
                outcomes[place] = outcome
        return outcomes

    def _call(self, commands: Sequence[Command]) -> "asyncio.Future[list[Outcome]]":
        """Send admitted commands with the others of this turn of the loop."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[list[Outcome]] = loop.create_future()
        if self._calls.add(next(self._numbers), commands, reply):
            loop.call_soon(self._send)
        return reply

    async def attach(self) -> None:
        if self._loop is not None:
            return
        async with self._attaching:
            if self._loop is None:
                await self._connect()
                self._loop = asyncio.get_running_loop()
                self._loop.call_later(_CHECK_SECONDS, self._check_answers)

    async def _connect(self) -> None:
        """Give the child's socket to the event loop."""
        assert self._child is not None, "start it first"
        self._child.socket.setblocking(False)  # noqa: FBT003 (its own signature)
        transport, _ = await asyncio.get_running_loop().create_unix_connection(
            lambda: _Listener(self), sock=self._child.socket
        )
        transport.set_write_buffer_limits(_HELD_BYTES_MAX)
        if not transport.is_closing():  # else the process was lost meanwhile, as `lost` was told
            self._transport = transport

    def _send(self) -> None:
        if self._is_held_back:
            return  # `set_reading` sends them, unless their callers have given up by then
        # Where there are none, the process was lost meanwhile, and their callers have the error.
        if asked := self._calls.take_unsent():
            assert self._transport is not None
            self._transport.write(encode_frame(WriterRequest(asked, time.monotonic())))

    def set_reading(self, *, is_reading: bool) -> None:
        """Note whether the process reads what it is sent."""
        self._is_held_back = not is_reading
        if is_reading:
            self._send()

    def _check_answers(self) -> None:
        """Give up on what was not answered in time; runs every _CHECK_SECONDS."""
        if not self._is_stopping and self.fatal is None:
            asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check_answers)
        self._calls.give_up_late()

    def _trouble(self) -> Trouble | None:
        """Return why the process does not work, as a part of this server; None if it does."""
        now = time.monotonic()
        if self._child is None or self._is_stopping:
            return None
        if self._received_at is None and self._lost_at:
            what = "The writer process has ended and is started again."
            return Trouble("writer_process", what, now - self._lost_at)
        if self._received_at is None:
            return Trouble("writer_process", "The writer process is starting.", 0.0)
        silent = now - self._received_at
        if silent > SILENT_SECONDS_MAX and self._transport is not None:
            return Trouble(
                "writer_process", f"The writer process has been silent for {silent:.0f} s.", silent
            )
        if (seconds := self._calls.unanswered_seconds()) is not None:
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
            self._restarts.answered()
            self._calls.note_answer()
        for number, sent in response.outcomes:
            returns = self._calls.answer(number, received_outcomes(sent))
            # Those that are not admitted are served again when their leases end.
            if admitted := [command for command in returns if self._calls.admit(command)]:
                self._call(admitted)

    def lost(self) -> None:
        """Fail what was sent: the process has ended, and the outcomes are unknown. What was not
        sent waits for the next process, if there is one.
        """
        self._transport, self._received_at = None, None
        lived_seconds, self._lost_at = time.monotonic() - self._began_at, time.monotonic()
        self._is_held_back = True
        self._decoder = response_decoder()
        self._supervisor.set_reported([])
        self._calls.fail_sent(self._ended())
        if self.fatal is None and not self._is_stopping:
            restart = self._restart(lived_seconds)
            self._restarting = asyncio.get_running_loop().create_task(restart)
        else:
            self._calls.fail_all(self._ended())

    async def _restart(self, lived_seconds: float) -> None:
        """Start the process again, as often as that makes sense; else let the server end."""
        try:
            await self._start_until_it_lives(lived_seconds)
        except Exception as error:  # noqa: BLE001 (for lack of threads, say)
            _log.error("writer_not_started", reason=reason_of(error), exc_info=error)
            self.fatal = FairlogError(
                "The writer process cannot be started. Start the server again."
            )
            self._calls.fail_all(self._ended())

    async def _start_until_it_lives(self, lived_seconds: float) -> None:
        code = await asyncio.to_thread(self._reap)
        while (pause := self._restarts.next_pause(lived_seconds)) is not None:
            _log.error("writer_ended", exit_code=code, starts_again_in_seconds=pause)
            await asyncio.sleep(pause)
            try:
                await asyncio.to_thread(self._start_again)
                if not self._is_stopping:
                    await self._connect()
            except Exception as error:  # noqa: BLE001 (for lack of memory, say: the next may start)
                _log.error("writer_not_started", reason=reason_of(error))
                code, lived_seconds = await asyncio.to_thread(self._reap), 0.0
                continue
            if self._is_stopping:
                break
            if self._transport is not None:
                self.set_reading(is_reading=True)
            return
        if not self._is_stopping:
            self.fatal = FairlogError(
                "The writer process has ended again and again; the lines above may say why. Start "
                "the server again."
            )
        self._calls.fail_all(self._ended())

    def _reap(self) -> int:
        """Return the exit code of the process that has ended."""
        assert self._child is not None
        self._child.stop(SILENT_STOP_SECONDS_MAX)
        return self._child.process.returncode

    def _start_again(self) -> None:
        if not self._is_stopping:
            self._began_at = time.monotonic()
            hello = replace(self._hello, known=self._known, host=self._host)
            self._child = ChildProcess(self._command, hello)

    def _receive(self, response: WriterResponse) -> None:
        self._received_at = time.monotonic()
        self.stats = response.stats
        self.stats.restarts = self._restarts.total
        if response.known is not None:
            self._known = response.known
        # With each sign of life, too: the server may have left the host meanwhile.
        if response.host is not None and (response.host != self._host or not response.outcomes):
            self._host = response.host
            with errors_logged():
                self.host_changed(response.host)
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
