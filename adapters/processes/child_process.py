"""Child processes that report to their parent until they end, or the error that ended them.

They are started by `fairlog_client.processes.child`.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from adapters.processes.sent_errors import SentError
from domain.language.errors import FairlogError
from fairlog_client.processes.child import ChildProcess
from fairlog_client.processes.frames import FRAME_BYTES_MAX, Decoder, Frames, encode_frame

_ENDED: Final = "A child process of this one has ended; the lines above may say why."

H = TypeVar("H", bound=Struct)
M = TypeVar("M", bound=Struct)


@contextmanager
def run_child(
    command: Sequence[str], hello: Struct, decode: Callable[[bytes], M | SentError]
) -> Iterator[Iterator[M]]:
    """Run a child and yield its messages; the child calls `serve_parent`.

    The iterator raises the error that ended the child, and `FairlogError` if it ended without one.
    """
    child = ChildProcess(command, hello)
    try:
        yield _messages(Frames(child.socket, Decoder(decode, FRAME_BYTES_MAX)))
    finally:
        child.stop()


def _messages(frames: Iterator[M | SentError]) -> Iterator[M]:
    for message in frames:
        if isinstance(message, SentError):
            raise message.restored()
        yield message
    raise FairlogError(_ENDED)


def serve_parent(
    connection: socket.socket, hello_type: type[H], serve: Callable[[H], Iterator[Struct]]
) -> None:
    """Send the parent the messages that `serve` yields for its hello, or the error it raises."""
    decode = msgspec.msgpack.Decoder(hello_type).decode
    with suppress(ConnectionError):  # the parent has ended, or needs no more
        hello = next(Frames(connection, Decoder(decode, FRAME_BYTES_MAX)), None)
        if hello is None:
            return
        try:
            for message in serve(hello):
                connection.sendall(encode_frame(message))
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 (the parent raises it)
            connection.sendall(encode_frame(SentError.of(error)))
