"""The messages between a worker and its handler processes, over a pair of sockets.

The frames are those of `fairlog_client.processes.frames`; results and errors are JSON already.
`Ping` and `Pong` count the frames that were sent before them: a handler may have read from the
socket or written to it, and a message that was lost so would be awaited for ever.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from fairlog_client.handlers.loading import Reserved
from fairlog_client.processes.frames import Decoder, encode_frame
from fairlog_client.worker.execution import RunResult
from fairlog_client.worker.outcomes import ProgressReport
from fairlog_client.worker.runner import HandlerJob

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024  # bodies have 1 MiB at most


class HandlerHello(Struct, frozen=True, tag=True):
    """The first message to a handler process."""

    handlers: str | None  # see load_handlers
    has_builtin: bool
    logs_json: bool
    log_level: str = "info"  # debug, info, warning or error
    reserved: Reserved = Reserved()  # top-level packages of the program that runs the worker
    parent: int = 0  # process id of the worker; set when the process is started


class StartRun(Struct, frozen=True, tag=True):
    """Run a job's handler."""

    number: int  # of the run; unique in its process
    job: HandlerJob


class CancelRun(Struct, frozen=True, tag=True):
    """Ask a handler to end."""

    number: int


class GiveUpRun(Struct, frozen=True, tag=True):
    """Replace the thread of a handler that ignores its cancel."""

    number: int


class Ping(Struct, frozen=True, tag=True):
    """Ask for a `Pong`, which comes once the interpreter of the process is free."""

    sent: int  # frames after `HandlerHello` and before this one


class HandlersReady(Struct, frozen=True, tag=True):
    """The handlers are imported."""

    kinds: Mapping[str, float | None]  # each with its handler's time-out in seconds, if any


class HandlersRefused(Struct, frozen=True, tag=True):
    """The handlers cannot be used."""

    reason: str


class RunBegan(Struct, frozen=True, tag=True):
    """The handler of a run begins."""

    number: int


class RunProgressed(Struct, frozen=True, tag=True):
    """The handler of a run reports how far it is."""

    number: int
    progress: ProgressReport


class RunEnded(Struct, frozen=True, tag=True):
    """The handler of a run has ended."""

    number: int
    result: RunResult


class Pong(Struct, frozen=True, tag=True):
    """The answer to a `Ping`."""

    sent: int  # frames after `HandlersReady` and before this one


WorkerMessage = HandlerHello | StartRun | CancelRun | GiveUpRun | Ping
HandlerMessage = HandlersReady | HandlersRefused | RunBegan | RunProgressed | RunEnded | Pong


def encode_frames(frames: Sequence[WorkerMessage | HandlerMessage]) -> bytes:
    """Return the bytes of some messages, each as a frame."""
    return b"".join(map(encode_frame, frames))


def worker_message_decoder() -> Decoder[WorkerMessage]:
    """Return a decoder of what a worker sends."""
    return Decoder(msgspec.msgpack.Decoder(WorkerMessage).decode, FRAME_BYTES_MAX)


def handler_message_decoder() -> Decoder[HandlerMessage]:
    """Return a decoder of what a handler process sends."""
    return Decoder(msgspec.msgpack.Decoder(HandlerMessage).decode, FRAME_BYTES_MAX)
