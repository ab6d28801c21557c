"""The write path in a process of its own, as the server sees it.

An event loop and a writer in one process share its interpreter lock, and each waits for the other;
apart they have a core each. The other process is given the same settings and runs the same writer
(`entrypoints.writing`). It ends with the server, however that ends: its end of the pair of sockets
is closed then.
"""

import asyncio
import contextlib
import itertools
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence

from msgspec import Struct

from adapters.command_queue import settle
from adapters.forks import keep_from_children
from adapters.other_process import see_end, started
from adapters.writer import Observer, WriterStats, heard
from adapters.writer_frames import (
    Answered,
    Asked,
    Begin,
    answers,
    encoded,
    frames,
    unpacked,
    unpickled,
)
from domain.batch import Outcome
from domain.commands import Command
from domain.decide import Answer
from domain.errors import FairlogError, LogUnavailable, again


class _Waiting(Struct, gc=False):
    reply: "asyncio.Future[Answer]"
    since: float  # time.monotonic()


class WriterProcess:
    """A `WritePath`. `command` runs the process; the number of its socket is put behind it.

    `execute_all` is for the time before the event loop, `execute` for the time on it.
    """

    def __init__(self, command: Sequence[str], begin: Begin) -> None:
        self.stats = WriterStats()
        self.fatal: FairlogError | None = None
        self._command = command
        self._begin = begin
        self._observers: list[Observer] = []
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._outgoing: list[tuple[int, Command]] = []  # since the loop's last turn
        self._decoder = answers()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._attaching = asyncio.Lock()
        self._transport: asyncio.WriteTransport | None = None
        self._is_stopping = False

    def start(self) -> None:
        self._socket, theirs = socket.socketpair()
        keep_from_children(self)
        with theirs:
            self._process = started(self._command, theirs.fileno())
        self._socket.sendall(encoded(self._begin))

    def stop(self) -> None:
        self._is_stopping = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the loop has closed it, or the process is gone
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._process is not None:
            see_end(self._process)

    def descriptors(self) -> Iterable[int]:
        return [] if self._socket is None else [self._socket.fileno()]

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def waiting(self) -> int:
        return len(self._waiting)

    def oldest_seconds(self) -> float:
        waiting = list(self._waiting.values())
        return time.monotonic() - waiting[0].since if waiting else 0.0

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        assert self._socket is not None, "start it first"
        assert self._transport is None, "the event loop has the socket"
        asked = [(next(self._numbers), command) for command in commands]
        outcomes: dict[int, Outcome] = {}
        if not asked:
            return []
        with contextlib.suppress(OSError):  # the process is gone, which reading tells too
            self._socket.sendall(encoded(Asked(asked)))
        for frame in frames(self._socket, answers()):
            self._hear(frame)
            outcomes.update((number, unpacked(sent)) for number, sent in frame.outcomes)
            if len(outcomes) == len(asked):
                return [outcomes[number] for number, _ in asked]
        raise self._ended()

    async def execute(self, command: Command) -> Answer:
        if self._transport is None:
            await self._attach()
        if self.fatal is not None or self._is_stopping:
            raise LogUnavailable("The server is stopping.")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Answer] = loop.create_future()
        number = next(self._numbers)
        self._waiting[number] = _Waiting(reply, time.monotonic())
        self._outgoing.append((number, command))
        if len(self._outgoing) == 1:  # the others of this turn go with it
            loop.call_soon(self._send)
        try:
            return await reply
        finally:
            del reply  # it has the error that is raised here, see `again`

    async def _attach(self) -> None:
        async with self._attaching:
            if self._transport is None:
                assert self._socket is not None, "start it first"
                self._socket.setblocking(False)  # noqa: FBT003 (its own signature)
                self._transport, _ = await asyncio.get_running_loop().create_unix_connection(
                    lambda: _Listener(self), sock=self._socket
                )

    def _send(self) -> None:
        asked, self._outgoing = self._outgoing, []
        if asked:  # else the process was lost meanwhile, and their callers have heard it
            assert self._transport is not None
            self._transport.write(encoded(Asked(asked)))

    def received(self, piece: bytes) -> None:
        for frame in self._decoder.feed(piece):
            self._hear(frame)
            for number, sent in frame.outcomes:
                settle(self._waiting.pop(number).reply, unpacked(sent))

    def lost(self) -> None:
        """The process is gone: nobody knows what became of what it had."""
        error = self._ended()
        self._outgoing.clear()
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            settle(one.reply, again(error))

    def _hear(self, frame: Answered) -> None:
        self.stats = frame.stats
        for written in frame.written:
            for observer in self._observers:
                with heard():
                    observer(written)
        if frame.fatal is not None:
            fatal = unpickled(frame.fatal)
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
    """The event loop's end of the pair of sockets."""

    def __init__(self, process: WriterProcess) -> None:
        self._process = process

    def data_received(self, data: bytes) -> None:
        self._process.received(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._process.lost()
