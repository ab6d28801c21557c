"""Messages between our own processes: MessagePack with its length in front, in 4 bytes.

Both ends are one program, so each message is a Struct, identified by its tag. Nothing is
pickled.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import msgspec

from fairlog_client.logs.log import Log

FRAME_BYTES_MAX: Final = 2**32 - 1
_LENGTH: Final = struct.Struct("!I")
_log = Log("processes")

F = TypeVar("F")


def _plain(value: object) -> str:
    """Encode a subclass of str, such as SQLAlchemy's names of tables, as a str."""
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(f"no message holds a {type(value).__name__}")


_encode: Final = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def encode_frame(message: msgspec.Struct) -> bytes:
    data = _encode(message)
    return _LENGTH.pack(len(data)) + data


class BrokenStream(Exception):
    """The stream holds something else than our frames, so what follows has no meaning either."""


class Decoder(Generic[F]):
    """Assembles messages from the pieces in which they arrive.

    A frame that cannot be decoded is logged and skipped: those behind it are for other callers.
    With `bytes_max` (the longest frame allowed) it raises `BrokenStream` instead, as a longer one
    does: for streams that a user's code may write to, or of which each message is needed.
    """

    def __init__(self, decode: Callable[[bytes], F], bytes_max: int | None = None) -> None:
        self._decode = decode
        self._bytes_max = bytes_max
        self._data = bytearray()

    def feed(self, piece: bytes) -> Iterator[F]:
        """Yield the messages that are complete with this piece. One for which there is no memory
        is skipped as well.
        """
        self.add(piece)
        while True:
            try:
                message = self.take()
            except MemoryError as error:
                self._skip(self._end(), error)
                continue
            if message is None:
                return
            yield message

    def add(self, piece: bytes) -> None:
        self._data += piece

    def take(self) -> F | None:
        """Return the next message, or None if it is not complete yet.

        After a `MemoryError` it is still there for the next call.
        """
        while end := self._end():
            try:
                message = self._decode(bytes(self._data[_LENGTH.size : end]))
            except msgspec.MsgspecError as error:
                self._skip(end, error)
                continue
            del self._data[:end]
            return message
        return None

    def _end(self) -> int:
        """Return where the first frame ends; 0 if it is not complete yet."""
        if len(self._data) < _LENGTH.size:
            return 0
        (length,) = _LENGTH.unpack_from(self._data)
        if self._bytes_max is not None and length > self._bytes_max:
            raise BrokenStream(f"a frame of {length} bytes")
        end: int = _LENGTH.size + length
        return end if len(self._data) >= end else 0

    def _skip(self, end: int, error: Exception) -> None:
        if self._bytes_max is not None:
            raise BrokenStream(f"a frame that cannot be read: {error}") from error
        del self._data[:end]
        _log.error("frame_unreadable", bytes=end, exc_info=error)


class Frames(Iterator[F]):
    """The messages from a socket, until the other process closes its end or has ended.

    Unlike a generator it can continue after it raised `MemoryError`, and has lost nothing then.
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
            if (message := self._decoder.take()) is not None:
                return message
            self._piece = _receive(self._connection)
            if not self._piece:
                raise StopIteration


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionError:
        return b""
