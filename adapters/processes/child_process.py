"""Child processes of our own program, each joined with its parent by a pair of sockets.

The parent sends a hello first; then frames go both ways (see `adapters.processes.frames`). A child
ends with its parent, however that ends: its end of the sockets is closed then.
"""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from adapters.processes.frames import FRAME_BYTES_MAX, Decoder, Frames, encode_frame
from adapters.processes.sent_errors import SentError
from domain.language.errors import FairlogError

STOP_SECONDS_MAX: Final = 15.0  # a page of a check, or a batch (3 s) and the few that wait
_ENDED: Final = "A child process of this one has ended; the lines above may say why."

H = TypeVar("H", bound=Struct)
M = TypeVar("M", bound=Struct)


def program(module: str) -> Sequence[str]:
    """Return the command that runs a module of ours.

    It looks for no module in the current directory, which is the user's; `python -m` alone would
    look there first.
    """
    return sys.executable, "-P", "-m", module


class ChildProcess:
    """A process that runs `command`, with the number of its socket as the last argument.

    `new_session` makes it the leader of a process group, so that what it starts can be ended too.
    """

    def __init__(self, command: Sequence[str], hello: Struct, *, new_session: bool = False) -> None:
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=new_session,
                )
            with suppress(ConnectionError):  # it has ended already, which reading shows as well
                self.socket.sendall(encode_frame(hello))
        except BaseException:
            self.socket.close()
            raise

    def stop(self, seconds_max: float = STOP_SECONDS_MAX) -> None:
        """Close the socket, by which the child ends. Kill it if that takes longer than this."""
        with suppress(OSError):  # an event loop has closed it, or the child has ended
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        try:
            self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


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
