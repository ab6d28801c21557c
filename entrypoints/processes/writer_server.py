"""The writer process of a server, which `entrypoints.processes.writer_main` starts.

It runs the writer and the asynchronous projectors, and receives commands over a socket that it
inherits (see `adapters.writer.writer_process`). It ends when the server stops or dies, which closes
the socket.
"""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from adapters.database.hosts import Hosts
from adapters.processes.sent_errors import SentError
from adapters.supervision import Part, Supervisor, supervise
from adapters.writer.command_queue import CommandQueue, Ticket
from adapters.writer.write_path import BatchWritten
from adapters.writer.writer import PROBE_SECONDS, Writer
from adapters.writer.writer_frames import (
    ANSWER_SECONDS_MAX,
    WriterHello,
    WriterRequest,
    WriterResponse,
    request_decoder,
    sent_outcomes,
)
from domain.decisions.batch import Outcome
from domain.language.errors import LogUnavailable
from entrypoints.composition import compose
from entrypoints.runtime.interpreter import tune_interpreter
from entrypoints.runtime.logging import configure_logging, level_of
from fairlog_client.processes.frames import Frames, encode_frame

REPORT_SECONDS: Final = 1.0  # between two reports of the state
_TOO_LATE: Final = "The server's writer did not answer in time; the request can be sent again."


def serve_commands(connection: socket.socket) -> None:
    """Serve the commands of one server until it closes the connection. Blocks."""
    incoming = Frames(connection, request_decoder())
    hello = next(incoming, None)
    if not isinstance(hello, WriterHello):
        return  # the server ended before it sent anything
    configure_logging(as_json=hello.logs_json, level=level_of(hello.settings.log_level))
    queue = CommandQueue()
    fairlog = compose(hello.settings, queue=queue)
    writer = fairlog.writer
    assert isinstance(writer, Writer)
    writer.known_end.latest = hello.known
    if fairlog.database.hosts is not None and hello.host is not None:
        fairlog.database.hosts.use(hello.host, "It was in use.")
    responder = _Responder(connection, writer, fairlog.supervisor, fairlog.database.hosts)
    stopping = threading.Event()
    with contextlib.closing(fairlog):
        tune_interpreter()
        writer.observe(responder.note_written)
        writer.probe_seconds = PROBE_SECONDS
        writer.start()
        fairlog.projector_runner.start()
        responder.start(stopping)
        part, started = fairlog.supervisor.part("writer_socket"), time.monotonic()
        try:
            supervise(
                part, lambda: _queue_commands(incoming, queue, responder, part, started), stopping
            )
        finally:
            stopping.set()


def _queue_commands(
    incoming: Iterator[WriterHello | WriterRequest],
    queue: CommandQueue,
    responder: "_Responder",
    part: Part,
    started: float,
) -> None:
    """Queue the server's commands until it closes the socket.

    Every command gets an outcome, whatever goes wrong with its frame.
    """
    for frame in incoming:
        assert isinstance(frame, WriterRequest)
        waiting = deque(frame.calls)
        try:
            # If this process was stopped for a while, the callers have received an error already.
            is_late = time.monotonic() - max(frame.at, started) > ANSWER_SECONDS_MAX
            while waiting and not is_late:
                number, commands = waiting[0]
                queue.put_call(commands, Ticket(number, responder.answer_all))
                waiting.popleft()
        finally:
            if waiting:
                error = LogUnavailable(_TOO_LATE, nothing_was_recorded=True)
                responder.answer_all(
                    [(number, [error] * len(commands)) for number, commands in waiting]
                )
        part.works()


class _Responder:
    """The sender of outcomes, one frame for each batch, and of the process's state each second.

    The writer never waits for the server, since it could then hold the head lock against every
    other server. A thread sends later what the socket does not accept at once.
    """

    def __init__(
        self,
        connection: socket.socket,
        writer: Writer,
        supervisor: Supervisor,
        hosts: Hosts | None,
    ) -> None:
        self._hosts = hosts
        self._connection = connection
        self._writer = writer
        self._supervisor = supervisor
        self._written: list[BatchWritten] = []
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._has_unsent = threading.Event()

    def start(self, stopping: threading.Event) -> None:
        """Start the threads that report the state and send what is left; `stopping` ends them."""
        for name, run in (("writer_news", self._report), ("writer_answers", self._send_unsent)):
            part = self._supervisor.part(name)
            threading.Thread(
                target=supervise,
                args=(part, partial(run, stopping, part), stopping),
                daemon=True,
                name=f"fairlog-{name}",
            ).start()

    def note_written(self, batch: BatchWritten) -> None:
        """Add a batch to the next frame, with its outcomes. The writer calls it."""
        self._written.append(batch)

    def answer_all(self, outcomes: Sequence[tuple[int, Sequence[Outcome]]]) -> None:
        """Send the outcomes of calls, by number, with the batches written and the state."""
        with self._lock:
            written, self._written = self._written, []
            fatal = self._writer.fatal
            response = WriterResponse(
                [(number, sent_outcomes(of_call)) for number, of_call in outcomes],
                written,
                self._writer.stats,
                None if fatal is None else SentError.of(fatal),
                self._supervisor.troubles(),
                self._writer.known_end.latest,
                None if self._hosts is None else self._hosts.current,
            )
            self._send(memoryview(encode_frame(response)))

    def _send(self, data: memoryview) -> None:
        try:
            while data and not self._unsent:
                data = data[self._connection.send(data, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            pass
        except OSError:
            return  # the server has ended
        if data:
            self._unsent.append(data)
            self._has_unsent.set()

    def _send_unsent(self, stopping: threading.Event, part: Part) -> None:
        while not stopping.is_set():
            self._has_unsent.wait(REPORT_SECONDS)
            while self._unsent:
                with contextlib.suppress(OSError):
                    self._connection.sendall(self._unsent[0])
                with self._lock:
                    self._unsent.popleft()
                    if not self._unsent:
                        self._has_unsent.clear()
            part.works()

    def _report(self, stopping: threading.Event, part: Part) -> None:
        """Send the state each second; without it, the server assumes that this process hangs."""
        while not stopping.is_set():
            if not self._unsent:
                self.answer_all([])
            part.works()
            stopping.wait(REPORT_SECONDS)
