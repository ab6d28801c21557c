"""`python -P -m fairlog_client.worker.handler_main SOCKET`: runs handlers for a worker.

It imports the handlers, reports their kinds, and runs the jobs that the worker sends over the
inherited socket (see `HandlerProcess`). It ends when the socket is closed, and on Linux is killed
when the worker dies, even while a handler holds the interpreter. SIGTERM and SIGINT do not end it:
a service manager sends them to each process of a service, and only the worker knows how long the
handlers may go on.
"""

import asyncio
import atexit
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn, cast

from fairlog_client.handlers.loading import HandlersError, load_handlers
from fairlog_client.logs.configuration import LEVELS, configure_logging
from fairlog_client.logs.log import Log
from fairlog_client.logs.output import output
from fairlog_client.processes.forks import keep_from_children
from fairlog_client.processes.frames import BrokenStream, Frames
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
    worker_message_decoder,
)
from fairlog_client.worker.outcomes import ProgressReport
from fairlog_client.worker.runner import HandlerRunner

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_log = Log("worker")


def main(connection: socket.socket) -> None:
    """Run handlers until the worker closes the connection; then end the process."""
    connection.set_inheritable(False)
    kept = _WorkerConnection(connection)  # `keep_from_children` holds a weak reference alone
    keep_from_children(kept)
    hello = next(Frames(connection, worker_message_decoder()), None)
    if not isinstance(hello, HandlerHello):
        return  # the worker ended first
    _die_with(hello.parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not SIG_IGN, which the programs that handlers start would inherit.
        signal.signal(number, lambda *_: None)
    configure_logging(as_json=hello.logs_json, level=LEVELS[hello.log_level], runs_handlers=True)
    try:
        handlers = load_handlers(
            hello.handlers, has_builtin=hello.has_builtin, reserved=hello.reserved
        )
    except HandlersError as error:
        connection.sendall(encode_frames([HandlersRefused(str(error))]))
        return
    kinds = {kind: handler.timeout_seconds for kind, handler in handlers.items()}
    try:
        connection.sendall(encode_frames([HandlersReady(kinds)]))
    except ConnectionError:
        raise
    except OSError as error:
        _log.error("handlers_process_failed", reason=f"the import closed its connection: {error}")
        _end(1)
    try:
        _serve(connection, HandlerRunner(handlers))
    except Exception:  # noqa: BLE001 (such as a closed descriptor of the event loop's)
        _log.exception("handlers_process_failed")
        _end(1)
    _end(0)


class _WorkerConnection:
    """The connection to the worker, which a child that a handler forks must not keep."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def descriptors(self) -> Iterable[int]:
        return [self._connection.fileno()]


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent dies; elsewhere it sees the closed socket."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _serve(connection: socket.socket, runner: HandlerRunner) -> None:
    """Run handlers until the worker closes the connection.

    Not by `asyncio.run`: where one handler stops the event loop, or raises SystemExit through it,
    it would cancel the others.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    connection.setblocking(False)  # noqa: FBT003 (its own signature)
    listener = _FrameListener(runner)
    loop.run_until_complete(loop.create_unix_connection(lambda: listener, sock=connection))
    while not listener.is_closed:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            _log.warning("event_loop_left", error=type(error).__name__)


def _end(code: int) -> NoReturn:
    """End the process without waiting for its threads. Functions that the handlers registered with
    `atexit` are called, until the worker kills this process a moment later.
    """
    with suppress(BaseException):
        atexit._run_exitfuncs()  # noqa: SLF001 (`sys.exit` would wait for threads before it)
    output.flush()
    with suppress(Exception):  # a handler may have closed or replaced it
        sys.stdout.flush()
    os._exit(code)


class _FrameListener(asyncio.Protocol):
    """Receives the worker's messages. Messages of one turn of the event loop are sent together."""

    def __init__(self, runner: HandlerRunner) -> None:
        self.is_closed = False
        self._runner = runner
        self._decoder = worker_message_decoder()
        self._outgoing: list[HandlerMessage] = []
        self._frames_sent = 0  # after `HandlersReady`
        self._frames_received = 0  # after `HandlerHello`
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished: set[int] = set()  # numbers of runs
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.is_closed = True
        asyncio.get_running_loop().stop()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._handle(frame)
        except BrokenStream as error:
            _log.error("handlers_process_disturbed", reason=str(error))
            _end(1)

    def _handle(self, frame: WorkerMessage) -> None:
        """Raises BrokenStream."""
        self._frames_received += 1
        match frame:
            case StartRun():
                self._runner.prepare(
                    frame.number, frame.job, partial(self._progressed, frame.number)
                )
                self._unfinished.add(frame.number)
                self._start(frame)
            case CancelRun(number=number):
                self._runner.cancel(number)
            case GiveUpRun(number=number):
                self._runner.give_up(number)
            case Ping(sent=sent):
                if sent != self._frames_received - 1:
                    raise BrokenStream(
                        f"{self._frames_received - 1} frames of {sent} that were sent"
                    )
                self._enqueue(Pong(self._frames_sent))
            case HandlerHello():
                raise AssertionError(frame)

    def _start(self, frame: StartRun) -> None:
        task = asyncio.create_task(self._run(frame), name=f"job-{frame.job.id}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_ended, frame))

    def _task_ended(self, frame: StartRun, task: asyncio.Task[None]) -> None:
        """Start a run again that a handler cancelled, with all tasks, before it could begin."""
        self._tasks.discard(task)
        if frame.number in self._unfinished:
            self._start(frame)

    async def _run(self, frame: StartRun) -> None:
        result = await self._runner.run(frame.number, frame.job, partial(self._began, frame.number))
        self._unfinished.discard(frame.number)
        self._enqueue(RunEnded(frame.number, result))

    def _began(self, number: int) -> None:
        """Report at once that a handler begins: it may hold the interpreter from now on."""
        self._frames_sent += 1
        self._outgoing.append(RunBegan(number))
        self._flush()

    def _progressed(self, number: int, progress: ProgressReport) -> None:
        if number in self._unfinished:
            self._enqueue(RunProgressed(number, progress))

    def _enqueue(self, frame: HandlerMessage) -> None:
        self._frames_sent += 1
        self._outgoing.append(frame)
        if len(self._outgoing) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing:
            self._transport.write(encode_frames(outgoing))


if __name__ == "__main__":
    with suppress(BrokenPipeError, ConnectionResetError):  # the worker has ended
        main(socket.socket(fileno=int(sys.argv[1])))
