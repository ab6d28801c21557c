"""`python -P -m entrypoints.worker.handler_main SOCKET`: a process that runs handlers for a worker.

It imports the handlers, says which kinds there are, and runs the jobs that it is handed over the
socket that it inherits (see `HandlerProcess`). It ends when that is closed, and is killed by the
operating system when the worker has died, also while a handler holds the interpreter. SIGTERM and
SIGINT do not end it: a service manager sends them to each process of a service, and it is for the
worker to say how long handlers have.
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

import structlog

from adapters.handlers.loading import HandlersError, load_handlers
from adapters.processes.forks import keep_from_children
from adapters.processes.frames import BrokenStream, Frames
from domain.language.identifiers import Kind
from entrypoints.runtime.logging import configure_logging, output
from entrypoints.worker.handler_protocol import (
    CancelRun,
    GiveUpRun,
    HandlerHello,
    HandlerMessage,
    HandlersReady,
    Ping,
    Pong,
    Refused,
    RunBegan,
    RunEnded,
    StartRun,
    WorkerMessage,
    encode_frames,
    worker_message_decoder,
)
from entrypoints.worker.runner import HandlerRunner

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_log = structlog.get_logger()


def main(connection: socket.socket) -> None:
    connection.set_inheritable(False)
    kept = _WorkerConnection(
        connection
    )  # for as long as this function runs, which is this process's life
    keep_from_children(kept)
    hello = next(Frames(connection, worker_message_decoder()), None)
    if not isinstance(hello, HandlerHello):
        return  # the worker ended first
    _die_with(hello.parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not SIG_IGN, which the programs that handlers start would inherit.
        signal.signal(number, lambda *_: None)
    configure_logging(as_json=hello.logs_json, runs_handlers=True)
    try:
        handlers = load_handlers(hello.handlers, has_builtin=hello.has_builtin)
    except HandlersError as error:
        connection.sendall(encode_frames([Refused(str(error))]))
        return
    kinds = {Kind(kind): handler.timeout_seconds for kind, handler in handlers.items()}
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
    """What a process that a handler forks must not have."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def descriptors(self) -> Iterable[int]:
        return [self._connection.fileno()]


def _die_with(parent: int) -> None:
    """Linux; elsewhere the closed socket alone says that the worker has died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _serve(connection: socket.socket, runner: HandlerRunner) -> None:
    """Until the worker closes the connection.

    A handler that stops the event loop, or raises SystemExit through it, is not the end of those
    beside it: `asyncio.run` would cancel them.
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
    """Not after threads that nobody waits for any more. What the handlers registered with `atexit`
    runs, until the worker kills this process a moment later.
    """
    with suppress(BaseException):
        atexit._run_exitfuncs()  # noqa: SLF001 (`sys.exit` would wait for threads before it)
    output.flush()
    with suppress(Exception):  # a handler may have closed or replaced it
        sys.stdout.flush()
    os._exit(code)


class _FrameListener(asyncio.Protocol):
    """The event loop's end of the pair of sockets; what one turn says goes together."""

    def __init__(self, runner: HandlerRunner) -> None:
        self.is_closed = False
        self._runner = runner
        self._decoder = worker_message_decoder()
        self._outgoing: list[HandlerMessage] = []
        self._frames_sent = 0  # behind `HandlersReady`
        self._frames_received = 0  # behind `HandlerHello`
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_end: set[int] = set()  # numbers of runs
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
                self._runner.prepare(frame.number, frame.job)
                self._to_end.add(frame.number)
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
        """A handler may cancel every task that there is: one that had not begun does so now."""
        self._tasks.discard(task)
        if frame.number in self._to_end:
            self._start(frame)

    async def _run(self, frame: StartRun) -> None:
        ended = await self._runner.run(frame.number, frame.job, partial(self._began, frame.number))
        self._to_end.discard(frame.number)
        self._enqueue(RunEnded(frame.number, ended))

    def _began(self, number: int) -> None:
        """Said at once: the handler may hold the interpreter from here on."""
        self._frames_sent += 1
        self._outgoing.append(RunBegan(number))
        self._flush()

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
