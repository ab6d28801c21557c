"""What a server and its writer process say to each other, over a pair of sockets.

Frames of MessagePack behind their length: commands and answers are told apart by their tags. An
error is no struct and is pickled: the two are one program in two processes, joined by a socket that
nobody else can have.
"""

import pickle
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

import msgspec
import structlog
from msgspec import Struct

from adapters.settings import Settings
from adapters.supervision import Trouble
from adapters.writer.writer import BatchWritten, WriterStats
from domain.decisions.batch import Outcome
from domain.decisions.decide import Answer
from domain.language.commands import Command
from domain.language.errors import FairlogError

Pickled = bytes  # an error

# A caller without an answer for so long is told that there is none; its command is not carried out
# if it is read later than that.
ANSWER_SECONDS_MAX: Final = 4.5

_LENGTH: Final = struct.Struct("!I")
_log = structlog.get_logger()
_encode: Final = msgspec.msgpack.Encoder().encode


class WriterHello(Struct, frozen=True, tag=True):
    """The first frame to the writer process."""

    settings: Settings
    logs_json: bool


class WriterRequest(Struct, frozen=True, tag=True):
    """Commands, each with a number by which it is answered."""

    commands: Sequence[tuple[int, Command]]
    at: float  # time.monotonic(), which all processes of a machine have in common


class WriterResponse(Struct, frozen=True):
    """Outcomes of commands by their numbers, and what was written for them."""

    outcomes: Sequence[tuple[int, Answer | Pickled]]
    written: Sequence[BatchWritten]
    stats: WriterStats
    fatal: Pickled | None  # why the writer stopped for good
    troubles: Sequence[Trouble]  # the parts of the process that fail now


def encoded(frame: WriterHello | WriterRequest | WriterResponse) -> bytes:
    data = _encode(frame)
    return _LENGTH.pack(len(data)) + data


def packed(outcome: Outcome) -> Answer | Pickled:
    """An outcome as it is sent."""
    return pickled(outcome) if isinstance(outcome, Exception) else outcome


def unpacked(sent: Answer | Pickled) -> Outcome:
    return unpickled(sent) if isinstance(sent, Pickled) else sent


def pickled(error: Exception) -> Pickled:
    """An accident is only named: it may hold anything, and nobody asks for more than its kind."""
    return pickle.dumps(error if isinstance(error, FairlogError) else RuntimeError(repr(error)))


def unpickled(error: Pickled) -> Exception:
    found = pickle.loads(error)  # noqa: S301 (made by our own process, see above)
    assert isinstance(found, Exception), found
    return found


F = TypeVar("F")


class BrokenStream(Exception):
    """Something else than frames of ours has come: what follows means nothing either."""


class Decoder(Generic[F]):
    """Makes frames of the pieces in which they come.

    With `bytes_max`, for a frame, the other end runs code of a user's, which may reach the socket:
    a longer frame, or one that cannot be read, raises `BrokenStream`.
    """

    def __init__(self, decode: Callable[[bytes], F], bytes_max: int | None = None) -> None:
        self._decode = decode
        self._bytes_max = bytes_max
        self._data = bytearray()

    def feed(self, piece: bytes) -> Iterator[F]:
        """The frames that are whole with this piece, but for those that cannot be read."""
        self.add(piece)
        while True:
            try:
                frame = self.take()
            except MemoryError as error:
                self._leave_out(self._end(), error)
                continue
            if frame is None:
                return
            yield frame

    def add(self, piece: bytes) -> None:
        self._data += piece

    def take(self) -> F | None:
        """The next frame that can be read; None: it has not come whole yet.

        Where there is no memory for it, it is still there for the next try.
        """
        while end := self._end():
            try:
                frame = self._decode(bytes(self._data[_LENGTH.size : end]))
            except msgspec.MsgspecError as error:  # the next one is whole again
                self._leave_out(end, error)
                continue
            del self._data[:end]
            return frame
        return None

    def _end(self) -> int:
        """Of the first frame; 0: it has not come whole yet."""
        if len(self._data) < _LENGTH.size:
            return 0
        (length,) = _LENGTH.unpack_from(self._data)
        if self._bytes_max is not None and length > self._bytes_max:
            raise BrokenStream(f"a frame of {length} bytes")
        end: int = _LENGTH.size + length
        return end if len(self._data) >= end else 0

    def _leave_out(self, end: int, error: Exception) -> None:
        if self._bytes_max is not None:
            raise BrokenStream(f"a frame that cannot be read: {error}") from error
        del self._data[:end]
        _log.error("frame_unreadable", bytes=end, exc_info=error)


def questions() -> Decoder[WriterHello | WriterRequest]:
    """For the writer process."""
    return Decoder(msgspec.msgpack.Decoder(WriterHello | WriterRequest).decode)


def answers() -> Decoder[WriterResponse]:
    """For the server."""
    return Decoder(msgspec.msgpack.Decoder(WriterResponse).decode)


class Frames(Iterator[F]):
    """Each frame as it comes, until the other process closes its end or is gone.

    Unlike a generator it can be gone on with after it has raised (for lack of memory), and has lost
    nothing then.
    """

    def __init__(self, connection: socket.socket, decoder: Decoder[F]) -> None:
        self._connection = connection
        self._decoder = decoder
        self._piece = b""

    def __next__(self) -> F:
        while True:
            if self._piece:
                self._decoder.add(self._piece)
                self._piece = b""
            if (frame := self._decoder.take()) is not None:
                return frame
            self._piece = _receive(self._connection)
            if not self._piece:
                raise StopIteration


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionError:
        return b""
