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

from adapters.processes.frames import Decoder
from adapters.settings import Settings
from domain.language.identifiers import Kind
from entrypoints.worker.execution import RunResult
from entrypoints.worker.runner import HandlerJob

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024  # bodies have 1 MiB at most
_LENGTH: Final = struct.Struct("!I")
_encode: Final = msgspec.msgpack.Encoder().encode


class HandlerHello(Struct, frozen=True, tag=True):
    """The first frame to a process for handlers."""

    handlers: str | None  # see load_handlers
    has_builtin: bool
    logs_json: bool
    parent: int = 0  # process id; filled in by whoever starts the process


class StartRun(Struct, frozen=True, tag=True):
    number: int
    job: HandlerJob


class CancelRun(Struct, frozen=True, tag=True):
    number: int


class GiveUpRun(Struct, frozen=True, tag=True):
    number: int


class Ping(Struct, frozen=True, tag=True):
    """Is answered when the process's interpreter is free."""

    sent: int  # frames behind `HandlerHello` and before this one


class HandlersReady(Struct, frozen=True, tag=True):
    """The handlers are imported; the longest run in seconds that each kind's asks for."""

    kinds: Mapping[Kind, float | None]


class Refused(Struct, frozen=True, tag=True):
    """The handlers cannot be used."""

    reason: str


class RunBegan(Struct, frozen=True, tag=True):
    number: int


class RunEnded(Struct, frozen=True, tag=True):
    number: int
    ended: RunResult


class Pong(Struct, frozen=True, tag=True):
    sent: int  # frames behind `HandlersReady` and before this one


WorkerMessage = HandlerHello | StartRun | CancelRun | GiveUpRun | Ping
HandlerMessage = HandlersReady | Refused | RunBegan | RunEnded | Pong


def handler_hello(settings: Settings, *, logs_json: bool) -> HandlerHello:
    return HandlerHello(
        handlers=settings.handlers, has_builtin=settings.builtin_handlers, logs_json=logs_json
    )


def encode_frames(frames: Sequence[WorkerMessage | HandlerMessage]) -> bytes:
    pieces: list[bytes] = []
    for frame in frames:
        data = _encode(frame)
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def worker_message_decoder() -> Decoder[WorkerMessage]:
    return Decoder(msgspec.msgpack.Decoder(WorkerMessage).decode, FRAME_BYTES_MAX)


def handler_message_decoder() -> Decoder[HandlerMessage]:
    return Decoder(msgspec.msgpack.Decoder(HandlerMessage).decode, FRAME_BYTES_MAX)
