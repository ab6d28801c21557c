"""Fairlog without its doors: services of this process, asked by commands."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.tables import events
from adapters.settings import Settings
from adapters.writer.command_queue import CommandQueue
from adapters.writer.writer import Writer
from domain.decisions.answers import Answer
from domain.decisions.batch import Outcome
from domain.decisions.ports import Clock
from domain.language.commands import Command, SaveProjections
from domain.language.events import Recorded
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import LONGEST_WINDOW
from tests.support.prepared import prepare

ANSWER_SECONDS_MAX = 30.0
MANY = 1_000_000_000

A = TypeVar("A", bound=Answer)


@contextmanager
def service(
    database_url: str,
    *,
    clock: Clock | None = None,
    queue: CommandQueue | None = None,
    **settings: Any,
) -> Iterator[Fairlog]:
    """A service whose writer runs, on a database that is brought up to date. Limits: none."""
    limits = {"user_limit": MANY, "global_limit": MANY}
    if clock is None:
        limits["window_seconds"] = LONGEST_WINDOW
    fairlog = compose(
        Settings(database_url=database_url, **(limits | settings)), clock=clock, queue=queue
    )
    try:
        prepare(fairlog)
        fairlog.writer.start()
        yield fairlog
    finally:
        fairlog.close()


@contextmanager
def head_locked(fairlog: Fairlog) -> Iterator[Connection]:
    """Nobody else writes meanwhile."""
    with fairlog.database.connect_writer() as connection, connection.begin() as transaction:
        fairlog.log.lock_head(connection)
        yield connection
        transaction.rollback()


def put(fairlog: Fairlog, *commands: Command) -> list[Future[Answer]]:
    return [writer_of(fairlog).queue.put(command) for command in commands]


def writer_of(fairlog: Fairlog) -> Writer:
    """The writer in this process."""
    assert isinstance(fairlog.writer, Writer)
    return fairlog.writer


def execute_now(fairlog: Fairlog, command: Command) -> Answer:
    """Raises what the writer answers."""
    [outcome] = fairlog.writer.execute_all([command])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def put_as_one_batch(fairlog: Fairlog, *commands: Command) -> list[Future[Answer]]:
    """The writer cannot take any before all are there."""
    with writer_of(fairlog).queue._changed:
        return put(fairlog, *commands)


def outcomes(replies: Sequence[Future[Answer]]) -> list[Outcome]:
    """Wait for all; an error is an outcome. Raises TimeoutError where none ever comes."""
    found: list[Outcome] = []
    for reply in replies:
        error = reply.exception(ANSWER_SECONDS_MAX)
        if error is None:
            found.append(reply.result())
        else:
            assert isinstance(error, Exception)
            found.append(error)
    return found


def do(fairlog: Fairlog, command: Command, expected: type[A]) -> A:
    answer = writer_of(fairlog).queue.put(command).result(ANSWER_SECONDS_MAX)
    assert isinstance(answer, expected), answer
    return answer


@contextmanager
def saved_rows(fairlog: Fairlog) -> Iterator[Connection]:
    """A connection to the rows of the inline projections, with all that was written before."""
    execute_now(fairlog, SaveProjections())
    with fairlog.database.read() as connection:
        yield connection


def log_of(fairlog: Fairlog) -> list[Recorded]:
    """Every event, in order."""
    with fairlog.database.read() as connection:
        return fairlog.log.read(connection, 0, MANY)


def events_in(fairlog: Fairlog) -> int:
    with fairlog.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()
