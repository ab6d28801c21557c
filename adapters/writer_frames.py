"""What a server and its writer process say to each other, over a pair of sockets.

Frames of pickled objects behind their length: the two are one program in two processes, joined by a
socket that nobody else can have, and their objects are the commands and answers themselves.
"""

import pickle
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from adapters.settings import Settings
from adapters.writer import BatchWritten, WriterStats
from domain.batch import Outcome
from domain.commands import Command
from domain.errors import FairlogError

_LENGTH: Final = struct.Struct("!I")
_PROTOCOL: Final = pickle.HIGHEST_PROTOCOL


class Begin(Struct, frozen=True):
    """The first frame to the writer process."""

    settings: Settings
    logs_json: bool


class Asked(Struct, frozen=True):
    """Commands, each with a number by which it is answered."""

    commands: Sequence[tuple[int, Command]]


class Answered(Struct, frozen=True):
    """Outcomes of commands by their numbers, and what was written for them."""

    outcomes: Sequence[tuple[int, Outcome]]
    written: Sequence[BatchWritten]
    stats: WriterStats
    fatal: FairlogError | None  # why the writer stopped for good


Frame = Begin | Asked | Answered


def encoded(frame: Frame) -> bytes:
    data = pickle.dumps(frame, _PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """Makes frames of the pieces in which they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, piece: bytes) -> Iterator[Any]:
        self._data += piece
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            end = _LENGTH.size + length
            if len(self._data) < end:
                return
            frame = bytes(self._data[_LENGTH.size : end])
            del self._data[:end]
            yield pickle.loads(frame)  # noqa: S301 (made by our own process, see above)


def frames(connection: socket.socket) -> Iterator[Any]:
    """Each frame as it comes, until the other process closes its end or is gone."""
    decoder = Decoder()
    while piece := _receive(connection):
        yield from decoder.feed(piece)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionError:
        return b""
