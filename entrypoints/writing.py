"""`python -m entrypoints.writing SOCKET`: the writer process of a server.

It has the writer and the projections that follow the log, and is asked over a socket that it
inherits (see `adapters.writer_process`). It ends when that is closed: by a server that stops, or
with one that died.
"""

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Sequence

from adapters.command_queue import CommandQueue, Ticket
from adapters.writer import BatchWritten, Writer
from adapters.writer_frames import (
    Answered,
    Asked,
    Begin,
    encoded,
    frames,
    packed,
    pickled,
    questions,
)
from domain.batch import Outcome
from domain.errors import QueueFull
from entrypoints.composition import compose
from entrypoints.interpreter import tune_interpreter
from entrypoints.logging import configure_logging


def main(connection: socket.socket) -> None:
    incoming = frames(connection, questions())
    begin = next(incoming, None)
    if not isinstance(begin, Begin):
        return  # the server ended first
    configure_logging(as_json=begin.logs_json)
    queue = CommandQueue()
    fairlog = compose(begin.settings, queue=queue)
    writer = fairlog.writer
    assert isinstance(writer, Writer)
    desk = _Desk(connection, writer)
    with contextlib.closing(fairlog):
        tune_interpreter()
        writer.observe(desk.hear)
        writer.start()
        fairlog.following.start()
        for frame in incoming:
            assert isinstance(frame, Asked)
            for number, command in frame.commands:
                try:
                    queue.put_for(Ticket(number, desk.answer_all), command)
                except QueueFull as error:
                    desk.answer_all([(number, error)])


class _Desk:
    """Answers for the writer, a frame for each batch."""

    def __init__(self, connection: socket.socket, writer: Writer) -> None:
        self._connection = connection
        self._writer = writer
        self._written: list[BatchWritten] = []
        self._guard = threading.Lock()

    def hear(self, batch: BatchWritten) -> None:
        """Observes the writer; its news go with the answers, and are heard before them."""
        self._written.append(batch)

    def answer_all(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        with self._guard:
            written, self._written = self._written, []
            fatal = self._writer.fatal
            answered = Answered(
                [(number, packed(outcome)) for number, outcome in outcomes], written,
                self._writer.stats, None if fatal is None else pickled(fatal),
            )  # fmt: skip
            with contextlib.suppress(OSError):  # the server is gone, and nobody waits
                self._connection.sendall(encoded(answered))


if __name__ == "__main__":
    # A terminal sends them to both processes; the server says when this one is to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main(socket.socket(fileno=int(sys.argv[1])))
