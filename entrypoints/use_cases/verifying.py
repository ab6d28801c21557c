"""`python -m entrypoints.use_cases.verifying SOCKET`: one pass of a check, in a child process.

It checks the events, as of its own moment of the database (see `projections.verify.findings`).
"""

import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final

import msgspec
from msgspec import Struct

from adapters.database.database import Database
from adapters.database.scratch import scratch_database
from adapters.log.stored_log import SqlStoredLog, snapshot
from adapters.processes.child_process import run_child, serve_parent
from adapters.processes.sent_errors import SentError
from domain.language.events import Recorded
from entrypoints.runtime.interpreter import tuned_for_one_pass
from fairlog_client.processes.child import program
from projections.activity.projection import ActivityProjection
from projections.following.async_projection import AsyncProjection
from projections.inline.live import inline_projections
from projections.verify.findings import Checked, CheckPass, Difference, Finding
from projections.verify.history_check import HistoryCheck
from projections.verify.verify import head_of

_COMMAND: Final = program("entrypoints.use_cases.verifying")


class VerifyHello(Struct, frozen=True, tag=True):
    """The first message to the child."""

    database_url: str  # with its password


class VerifiedPage(Struct, frozen=True, tag=True):
    """One page of the log; see `Checked`."""

    position: int
    found: Sequence[Finding | Difference]


class VerifiedLog(Struct, frozen=True, tag=True):
    """Follows the last page."""

    stopped_at: int | None  # see `CheckPass.stopped_at`


class VerifiedRows(Struct, frozen=True, tag=True):
    """Differences between the projections' rows and the log."""

    differences: Sequence[Difference]


class VerifyEnd(Struct, frozen=True, tag=True):
    """The last message."""


_Message = VerifiedPage | VerifiedLog | VerifiedRows | VerifyEnd


def following() -> Sequence[AsyncProjection[Recorded]]:
    """Return the asynchronous projections that this pass checks: so it has as much work as the
    other pass.
    """
    return [ActivityProjection()]


@contextmanager
def history_check(database: Database) -> Iterator[CheckPass]:
    """Yield the pass, to be made in this process."""
    log = SqlStoredLog(is_sqlite=database.is_sqlite)
    with snapshot(database) as connection, scratch_database() as scratch:
        head = head_of(log, connection)
        projections = inline_projections()
        yield HistoryCheck(log, connection, head, projections, following(), scratch)


@contextmanager
def history_check_in_child(database: Database) -> Iterator[CheckPass]:
    """Yield the pass, made in a child process."""
    hello = VerifyHello(database.text)
    decode = msgspec.msgpack.Decoder(_Message | SentError).decode
    with run_child(_COMMAND, hello, decode) as messages:
        yield _ChildPass(messages)


class _ChildPass:
    """A pass, from the messages of the child that makes it."""

    def __init__(self, messages: Iterator[_Message]) -> None:
        self._messages = messages
        self._stopped_at: int | None = None

    def pages(self) -> Iterator[Checked]:
        for message in self._messages:
            if isinstance(message, VerifiedLog):
                self._stopped_at = message.stopped_at
                return
            assert isinstance(message, VerifiedPage)
            yield Checked(message.position, message.found)

    def stopped_at(self) -> int | None:
        return self._stopped_at

    def differences(self) -> Iterator[Sequence[Difference]]:
        for message in self._messages:
            if isinstance(message, VerifyEnd):
                return
            assert isinstance(message, VerifiedRows)
            yield message.differences


def _serve(hello: VerifyHello) -> Iterator[_Message]:
    with (
        closing(Database(hello.database_url)) as database,
        history_check(database) as check,
        tuned_for_one_pass(),
    ):
        for position, found in check.pages():
            yield VerifiedPage(position, found)
        yield VerifiedLog(check.stopped_at())
        for differences in check.differences():
            yield VerifiedRows(differences)
        yield VerifyEnd()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    serve_parent(socket.socket(fileno=int(sys.argv[1])), VerifyHello, _serve)
