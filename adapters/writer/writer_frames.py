"""The messages between a server and its writer process (see `fairlog_client.processes.frames`)."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from adapters.processes.sent_errors import SentError
from adapters.settings import Settings
from adapters.supervision import Trouble
from adapters.writer.known_end import KnownEvent
from adapters.writer.write_path import BatchWritten, WriterStats
from domain.decisions.answers import Answer
from domain.decisions.batch import Outcome
from domain.language.commands import Command
from fairlog_client.processes.frames import Decoder

# A caller without an answer for so long is answered that there is none; its command is not carried
# out if the writer reads it later than that.
ANSWER_SECONDS_MAX: Final = 4.5


class WriterHello(Struct, frozen=True, tag=True):
    """The first message to the writer process."""

    settings: Settings
    logs_json: bool  # else lines for people
    known: KnownEvent | None = None  # what the process before this one knew
    host: str | None = None  # of several, the one that it used


class WriterRequest(Struct, frozen=True, tag=True):
    """Calls, each with a number by which its commands are answered together."""

    calls: Sequence[tuple[int, Sequence[Command]]]
    at: float  # time.monotonic(), which all processes of a machine have in common


class WriterResponse(Struct, frozen=True):
    """Outcomes of calls by their numbers, and the state of the writer process.

    One without outcomes is sent each second as a sign of life.
    """

    outcomes: Sequence[tuple[int, Sequence[Answer | SentError]]]  # in the order of the commands
    written: Sequence[BatchWritten]  # since the response before
    stats: WriterStats
    fatal: SentError | None  # why the writer stopped for good
    troubles: Sequence[Trouble]  # the parts of the process that fail now
    known: KnownEvent | None = None  # the end of the log
    host: str | None = None  # of the database that it uses; None: there is one alone


def sent_outcomes(outcomes: Sequence[Outcome]) -> list[Answer | SentError]:
    return [SentError.of(one) if isinstance(one, Exception) else one for one in outcomes]


def received_outcomes(sent: Sequence[Answer | SentError]) -> list[Outcome]:
    return [one.restored() if isinstance(one, SentError) else one for one in sent]


def request_decoder() -> Decoder[WriterHello | WriterRequest]:
    """Return a decoder for the writer process."""
    return Decoder(msgspec.msgpack.Decoder(WriterHello | WriterRequest).decode)


def response_decoder() -> Decoder[WriterResponse]:
    """Return a decoder for the server."""
    return Decoder(msgspec.msgpack.Decoder(WriterResponse).decode)
