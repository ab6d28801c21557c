"""The messages between a server and its writer process (see `adapters.processes.frames`)."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from adapters.processes.frames import Decoder
from adapters.processes.sent_errors import SentError
from adapters.settings import Settings
from adapters.supervision import Trouble
from adapters.writer.writer import BatchWritten, WriterStats
from domain.decisions.batch import Outcome
from domain.decisions.decide import Answer
from domain.language.commands import Command

# A caller without an answer for so long is answered that there is none; its command is not carried
# out if the writer reads it later than that.
ANSWER_SECONDS_MAX: Final = 4.5


class WriterHello(Struct, frozen=True, tag=True):
    """The first message to the writer process."""

    settings: Settings
    logs_json: bool  # else lines for people


class WriterRequest(Struct, frozen=True, tag=True):
    """Commands, each with a number by which it is answered."""

    commands: Sequence[tuple[int, Command]]
    at: float  # time.monotonic(), which all processes of a machine have in common


class WriterResponse(Struct, frozen=True):
    """Outcomes of commands by their numbers, and the state of the writer process.

    One without outcomes is sent each second as a sign of life.
    """

    outcomes: Sequence[tuple[int, Answer | SentError]]
    written: Sequence[BatchWritten]  # since the response before
    stats: WriterStats
    fatal: SentError | None  # why the writer stopped for good
    troubles: Sequence[Trouble]  # the parts of the process that fail now


def sent_outcome(outcome: Outcome) -> Answer | SentError:
    return SentError.of(outcome) if isinstance(outcome, Exception) else outcome


def received_outcome(sent: Answer | SentError) -> Outcome:
    return sent.restored() if isinstance(sent, SentError) else sent


def request_decoder() -> Decoder[WriterHello | WriterRequest]:
    """Return a decoder for the writer process."""
    return Decoder(msgspec.msgpack.Decoder(WriterHello | WriterRequest).decode)


def response_decoder() -> Decoder[WriterResponse]:
    """Return a decoder for the server."""
    return Decoder(msgspec.msgpack.Decoder(WriterResponse).decode)
