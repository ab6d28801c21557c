"""What a worker and its processes for handlers say to each other, over a pair of sockets.

Frames of MessagePack behind their length. Nothing is pickled: what a handler returned or raised is
JSON by then. Each side says with `Ping` and `Pong` how many frames it has sent: a handler may have
read or written at the socket, and what got lost so would be waited for without end.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from adapters.settings import Settings
from adapters.writer.writer_frames import Decoder
from domain.language.identifiers import Kind
from entrypoints.worker.execution import Ended
from entrypoints.worker.runner import HandedJob

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024  # bodies have 1 MiB at most
_LENGTH: Final = struct.Struct("!I")
_encode: Final = msgspec.msgpack.Encoder().encode


class HandlerHello(Struct, frozen=True, tag=True):
    """The first frame to a process for handlers."""

    handlers: str | None  # see load_handlers
    has_builtin: bool
    logs_json: bool
    parent: int = 0  # process id; filled in by whoever starts the process


class Run(Struct, frozen=True, tag=True):
    number: int
    job: HandedJob


class TellToEnd(Struct, frozen=True, tag=True):
    number: int


class GiveUp(Struct, frozen=True, tag=True):
    number: int


class Ping(Struct, frozen=True, tag=True):
    """Is answered when the process's interpreter is free."""

    sent: int  # frames behind `HandlerHello` and before this one


class Ready(Struct, frozen=True, tag=True):
    """The handlers are imported; the longest run in seconds that each kind's asks for."""

    kinds: Mapping[Kind, float | None]


class Refused(Struct, frozen=True, tag=True):
    """The handlers cannot be used."""

    reason: str


class Began(Struct, frozen=True, tag=True):
    number: int


class RunEnded(Struct, frozen=True, tag=True):
    number: int
    ended: Ended


class Pong(Struct, frozen=True, tag=True):
    sent: int  # frames behind `Ready` and before this one


ToHandlers = HandlerHello | Run | TellToEnd | GiveUp | Ping
FromHandlers = Ready | Refused | Began | RunEnded | Pong


def begin_of(settings: Settings, *, logs_json: bool) -> HandlerHello:
    return HandlerHello(
        handlers=settings.handlers, has_builtin=settings.builtin_handlers, logs_json=logs_json
    )


def encoded(frames: Sequence[ToHandlers | FromHandlers]) -> bytes:
    pieces: list[bytes] = []
    for frame in frames:
        data = _encode(frame)
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def for_handlers() -> Decoder[ToHandlers]:
    return Decoder(msgspec.msgpack.Decoder(ToHandlers).decode, FRAME_BYTES_MAX)


def from_handlers() -> Decoder[FromHandlers]:
    return Decoder(msgspec.msgpack.Decoder(FromHandlers).decode, FRAME_BYTES_MAX)
