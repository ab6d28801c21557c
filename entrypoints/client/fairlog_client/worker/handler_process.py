"""One handler process, as its worker sees it."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Final, cast

from msgspec.structs import replace

from fairlog_client.handlers.loading import HandlersError
from fairlog_client.logs.log import Log
from fairlog_client.processes.child import ChildProcess, program
from fairlog_client.processes.frames import BrokenStream, Frames
from fairlog_client.worker.error_bodies import error_body
from fairlog_client.worker.execution import Execution, RunResult
from fairlog_client.worker.handler_protocol import (
    CancelRun,
    GiveUpRun,
    HandlerHello,
    HandlerMessage,
    HandlersReady,
    HandlersRefused,
    Ping,
    Pong,
    RunBegan,
    RunEnded,
    RunProgressed,
    StartRun,
    WorkerMessage,
    encode_frames,
    handler_message_decoder,
)
from fairlog_client.worker.outcomes import ClaimedJob
from fairlog_client.worker.runner import handler_job

_COMMAND: Final = program("fairlog_client.worker.handler_main")
IMPORT_LOG_SECONDS: Final = 10.0  # between two log lines about slow imports
IMPORT_SECONDS_MAX: Final = 600.0  # then the process is killed; not at the worker's start
STALLED_SECONDS: Final = 3.0  # without an answer: a handler holds the interpreter
_KILL_SECONDS: Final = 1.0  # from the end of the connection to SIGKILL
_DRAIN_SECONDS: Final = 0.5  # for messages that a process sent before it died

_log = Log("worker")


class HandlerProcess:
    """A child process that runs up to `capacity` handlers at once.

    `on_change` is called when it is ready, when a handler has ended, and when the process has.
    """

    def __init__(
        self, hello: HandlerHello, capacity: int, on_change: Callable[["HandlerProcess"], None]
    ) -> None:
        self.capacity = capacity
        self.ready: HandlersReady | None = None
        self.refused: str | None = None  # why its handlers cannot be used
        self.is_retired = False  # accepts no more jobs, and ends when those it runs have ended
        self.is_abandoned = False
        self.holds_suspects = False  # if abandoned: one of its handlers blocked the others
        self.has_ended = False
        self._given_up: dict[int, Execution] = {}  # have not ended and are no longer waited for
        self._on_change = on_change
        self._running: dict[int, Execution] = {}
        self._begun: dict[int, float] = {}  # number: time.monotonic()
        self._disturbed: list[Execution] = []  # were cancelled by another handler
        self._unstarted: list[Execution] = []  # got no thread
        self._numbers = 0
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[WorkerMessage] = []
        self._decoder = handler_message_decoder()
        self._made = self._received_at = time.monotonic()
        self._gave_up_at = 0.0  # the latest time that a handler was given up; time.monotonic()
        self._is_stalled = False
        self._is_closed = False  # its end of the socket
        self._kill_reason: str | None = None  # continues a sentence after "the process"
        self._frames_sent = 0  # after `HandlerHello`
        self._frames_received = 0  # after `HandlersReady`
        self._is_ending = False
        child = ChildProcess(_COMMAND, replace(hello, parent=os.getpid()), new_session=True)
        self._socket, self._process = child.socket, child.process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._made

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def given_up(self) -> int:
        """The number of handlers that were given up and have not ended."""
        return len(self._given_up)

    def hanging_jobs(self) -> list[ClaimedJob]:
        """List the jobs of handlers that were given up and have not ended. Any thread may call."""
        return [one.job for one in list(self._given_up.values())]

    def begun_jobs(self) -> list[ClaimedJob]:
        """List the jobs whose handlers have begun and are waited for. Any thread may call."""
        return [one.job for number, one in list(self._running.items()) if number in self._begun]

    @property
    def is_stalled(self) -> bool:
        """True after STALLED_SECONDS without an answer: a handler holds the interpreter."""
        return self._is_stalled

    @property
    def silent_seconds(self) -> float:
        """The time since its last message; 0 while it runs no handler."""
        return time.monotonic() - self._received_at if self._is_watched else 0.0

    @property
    def blocks_others(self) -> bool:
        """True if it has not answered since a handler was given up: the others cannot go on."""
        return self._is_stalled and self._gave_up_at > self._received_at

    def wait_until_ready(self) -> HandlersReady:
        """Block until the handlers are imported; call it before `attach`. Raises HandlersError."""
        while not select.select([self._socket], [], [], IMPORT_LOG_SECONDS)[0]:
            _log.warning("handlers_importing", pid=self.pid, seconds=round(self.age_seconds))
        try:
            frame = next(Frames(self._socket, handler_message_decoder()), None)
        except BrokenStream as error:
            raise HandlersError(
                f"The handler process wrote something else to its connection: {error}"
            ) from None
        if isinstance(frame, HandlersRefused):
            raise HandlersError(frame.reason)
        if not isinstance(frame, HandlersReady):
            self._process.wait()
            raise HandlersError(
                f"The handler process {_exit_description(self._process.returncode)} while it "
                "imported the handlers; the lines above may give the reason."
            )
        self.ready = frame
        return frame

    async def attach(self) -> None:
        """Receive its messages on the running event loop from now on."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)  # noqa: FBT003 (its own signature)
        await loop.create_unix_connection(lambda: _AnswerListener(self), sock=self._socket)
        threading.Thread(
            target=self._watch, args=(loop,), name=f"fairlog-handlers-{self.pid}", daemon=True
        ).start()

    def run(self, execution: Execution) -> None:
        """Start a handler."""
        if not self._is_watched:
            self._received_at = time.monotonic()
        self._numbers += 1
        self._running[self._numbers] = execution
        self._enqueue(StartRun(self._numbers, handler_job(execution.job)))

    def cancel(self, execution: Execution) -> bool:
        """Ask a handler to end. Returns False if it does not run here."""
        number = self._number_of(execution)
        if number is not None:
            self._enqueue(CancelRun(number))
        return number is not None

    def give_up(self, execution: Execution) -> bool:
        """Stop waiting for a handler. Returns False if it does not run here."""
        number = self._number_of(execution)
        if number is None:
            return False
        self._given_up[number] = self._running.pop(number)
        self._gave_up_at = time.monotonic()
        self._begun.pop(number, None)
        self._enqueue(GiveUpRun(number))
        return True

    def check(self) -> None:
        """Ask whether its interpreter is free; call this about once a second."""
        if self.ready is None and self.age_seconds > IMPORT_SECONDS_MAX:
            self._signal(signal.SIGKILL)
        if not self._is_watched or self.has_ended:
            self._is_stalled = False
            return
        silent = self.silent_seconds
        if silent >= STALLED_SECONDS and not self._is_stalled:
            self._is_stalled = True
            _log.warning(
                "handlers_hold_interpreter",
                pid=self.pid,
                silent_seconds=round(silent, 1),
                running=self._describe(),
            )
        self._enqueue(Ping(self._frames_sent))

    @property
    def _is_watched(self) -> bool:
        return bool(self._running or self._given_up)

    def retire(self) -> None:
        """Accept no more jobs, and end the process when those that it runs have ended."""
        self.is_retired = True
        self._end_if_idle()

    def close(self) -> None:
        """Close its connection, so that it ends; then kill it and every process it started."""
        if self.has_ended or self._is_ending:
            return
        self._is_ending = True
        if self._transport is not None:
            self._transport.abort()
        self._call_later(_KILL_SECONDS, lambda: self._signal(signal.SIGKILL))

    def abandon(self, *, holds_suspects: bool = False) -> None:
        """Kill it; its handlers are run again elsewhere."""
        self.is_retired = self.is_abandoned = True
        self.holds_suspects = holds_suspects
        self._signal(signal.SIGKILL)

    def kill_and_wait(self) -> None:
        """Kill it, and block until it has ended."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._transport is None:
            self._socket.close()

    def received(self, piece: bytes) -> None:
        """Handle bytes from the process."""
        if self._kill_reason is not None:
            return
        try:
            for frame in self._decoder.feed(piece):
                self._received_at = time.monotonic()  # only a whole frame is certainly its own
                self._handle(frame)
        except BrokenStream as error:
            _log.error("handlers_process_disturbed", pid=self.pid, reason=str(error))
            self._kill_disconnected("wrote to its connection to its worker, or read from it")
        if self._is_stalled and time.monotonic() - self._received_at < STALLED_SECONDS:
            self._is_stalled = False
            _log.info("handlers_answer_again", pid=self.pid)

    def attached(self, transport: asyncio.Transport) -> None:
        """Send the queued messages, now that there is a transport."""
        self._transport = transport
        self._flush()

    def closed(self) -> None:
        """Handle the end of the connection.

        Usually the process has ended; but a handler may have closed all descriptors.
        """
        self._is_closed = True
        self._transport = None
        self._call_later(_KILL_SECONDS, self._kill_if_running)

    def _kill_if_running(self) -> None:
        if not self.has_ended and not self._is_ending:
            self._kill_disconnected("closed its connection to its worker")

    def _kill_disconnected(self, reason: str) -> None:
        """Kill it, since it can no longer be reached. `reason` follows the words "the process"."""
        self._kill_reason = self._kill_reason or reason
        self._signal(signal.SIGKILL)

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # no event loop runs yet
            asyncio.get_running_loop().call_later(seconds, function)

    def _handle(self, frame: HandlerMessage) -> None:
        """Raises BrokenStream."""
        match frame:
            case HandlersReady() | HandlersRefused():
                pass
            case _:
                self._frames_received += 1
        match frame:
            case HandlersReady():
                self.ready = frame
                self._on_change(self)
            case HandlersRefused(reason=reason):
                self.refused = reason
            case RunBegan(number=number):
                if number in self._running:
                    self._begun[number] = time.monotonic()
                    if self._running[number].begun_at is None:
                        self._running[number].begun_at = self._begun[number]
                    self._running[number].began()
            case RunProgressed(number=number, progress=progress):
                if number in self._running:
                    self._running[number].progressed(progress)
            case RunEnded(number=number, result=result):
                self._run_ended(number, result)
            case Pong(sent=sent):
                if sent != self._frames_received - 1:
                    raise BrokenStream(
                        f"{self._frames_received - 1} frames of {sent} that were sent"
                    )

    def _run_ended(self, number: int, result: RunResult) -> None:
        execution = self._running.pop(number, None)
        self._begun.pop(number, None)
        if execution is None:
            self._given_up.pop(number, None)  # it has ended after all
        elif result.is_returned:
            self._unstarted.append(execution)
        elif result.is_disturbed and self.capacity > 1:
            self._disturbed.append(execution)
        else:
            execution.end(result)
        self._end_if_idle()
        self._on_change(self)

    def _end_if_idle(self) -> None:
        if self.is_retired and not self._running:
            self.close()

    def _enqueue(self, frame: WorkerMessage) -> None:
        self._frames_sent += 1
        self._outgoing.append(frame)
        if self._transport is not None and len(self._outgoing) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            self._transport.write(encode_frames(outgoing))

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the process in a thread: a child of a handler may keep the socket open."""
        _wait_and_end_group(self._process)
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(self._process_ended, loop)

    def _process_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_closed:
            self._end()
        else:
            loop.call_later(_DRAIN_SECONDS, self._end)

    def _end(self) -> None:
        self.has_ended = True
        self._is_stalled = False
        if self._transport is not None:
            self._transport.close()
        self._on_change(self)

    def take_running(self) -> list[Execution]:
        """Take what it ran when it died, in the order in which it was started."""
        running, self._running = list(self._running.values()), {}
        return running

    def take_disturbed(self) -> list[Execution]:
        """Take the runs that another handler cancelled, with all tasks; they are run alone."""
        disturbed, self._disturbed = self._disturbed, []
        return disturbed

    def take_unstarted(self) -> list[Execution]:
        """Take the runs for which the process could start no thread."""
        unstarted, self._unstarted = self._unstarted, []
        return unstarted

    @property
    def was_closed(self) -> bool:
        """True if `close` was called."""
        return self._is_ending

    @property
    def exit_description(self) -> str:
        """The end of the process, in words that follow "the process"."""
        if self._kill_reason is not None:
            return self._kill_reason
        return _exit_description(self._process.returncode)

    def death_result(self) -> RunResult:
        """Return the result of a run that was ended by the death of the process."""
        message = f"The process that ran the handler {self.exit_description}."
        return RunResult(error=error_body("HandlerProcessDied", message))

    def _describe(self) -> list[str]:
        now = time.monotonic()
        return [
            f"job {one.job.id} of kind {one.job.kind!r}, attempt {one.job.attempt}, "
            f"for {now - self._begun[number]:.0f} s"
            for number, one in self._running.items()
            if number in self._begun
        ]

    def _number_of(self, execution: Execution) -> int | None:
        return next((number for number, one in self._running.items() if one is execution), None)

    def _signal(self, number: int) -> None:
        """Send a signal to its process group, which has its process id, unless it has ended."""
        if not self.has_ended and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def _wait_and_end_group(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process, then kill what is left of its group: what its handlers started.

    It is reaped last: until then no other process or group can have its id.
    """
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return  # `kill_and_wait` reaped it, and had killed its group
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _exit_description(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


class _AnswerListener(asyncio.Protocol):
    def __init__(self, process: HandlerProcess) -> None:
        self._process = process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process.attached(cast("asyncio.Transport", transport))  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._process.received(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._process.closed()
