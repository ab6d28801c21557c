"""`python -m entrypoints.use_cases.verifying PIPE`: half of a check, done beside the other.

It has the events, and a moment of the database of its own (see `projections.verify.passes`).
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

from adapters.database.database import Database
from adapters.database.scratch import scratch_database
from adapters.log.stored_log import SqlStoredLog, snapshot
from adapters.processes.child_process import program, run_child, serve_parent
from domain.language.events import Recorded
from entrypoints.runtime.interpreter import tuned_for_one_pass
from projections.activity.projection import ActivityProjection
from projections.following.async_projector import AsyncProjection
from projections.inline.live import inline_projections
from projections.verify.findings import Difference
from projections.verify.history_check import HistoryCheck
from projections.verify.passes import Checked, CheckPass
from projections.verify.verify import head_of

_COMMAND: Final = program("entrypoints.use_cases.verifying")
_Stopped = tuple[int | None]  # what `CheckPass.stopped_at` says


def following() -> Sequence[AsyncProjection[Recorded]]:
    """The projections that follow the log which this part has: with them it has as much to do as
    the other one.
    """
    return [ActivityProjection()]


@contextmanager
def history_check(database: Database) -> Iterator[CheckPass]:
    """The part, in this process."""
    log = SqlStoredLog(is_sqlite=database.is_sqlite)
    with snapshot(database) as connection, scratch_database() as scratch:
        head = head_of(log, connection)
        projections = inline_projections()
        yield HistoryCheck(log, connection, head, projections, following(), scratch)


@contextmanager
def history_check_beside(database: Database) -> Iterator[CheckPass]:
    """The part, in a process of its own."""
    url = database.url.render_as_string(hide_password=False)
    with run_child(_COMMAND, url) as words:
        yield _Heard(words)


class _Heard:
    """A part by what another process says of it."""

    def __init__(self, words: Iterator[Any]) -> None:
        self._words = words
        self._stopped: _Stopped = (None,)

    def pages(self) -> Iterator[Checked]:
        for word in self._words:
            if not isinstance(word, Checked):
                self._stopped = word
                return
            yield word

    def stopped_at(self) -> int | None:
        return self._stopped[0]

    def differences(self) -> Iterator[Sequence[Difference]]:
        return iter(self._words.__next__, None)


def _words(url: str) -> Iterator[object]:
    with closing(Database(url)) as database, history_check(database) as part, tuned_for_one_pass():
        yield from part.pages()
        stopped: _Stopped = (part.stopped_at(),)
        yield stopped
        yield from part.differences()
        yield None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    serve_parent(Connection(int(sys.argv[1])), _words)
