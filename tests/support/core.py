"""Fairlog without its doors: services of this process, asked by commands."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.tables import events
from adapters.settings import Settings
from adapters.writer.command_queue import CommandQueue
from adapters.writer.writer import Writer
from domain.decisions.batch import Outcome
from domain.decisions.decide import Answer
from domain.decisions.ports import Clock
from domain.language.commands import Command
from domain.language.events import Recorded
from entrypoints.composition import compose, prepare
from entrypoints.service.fairlog import Fairlog
from tests.support.given import NOW

ANSWER_SECONDS_MAX = 30.0
MANY = 1_000_000_000

A = TypeVar("A", bound=Answer)


class ManualClock:
    """The log's clock in the hand of a test. It stands until it is moved, forward or back."""

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def elapsed(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let so much time go by."""
        self._elapsed += seconds
        self.step(seconds)

    def step(self, seconds: float) -> None:
        """Set it otherwise, while no time goes by."""
        self._now += timedelta(seconds=seconds)


class SteppingClock(ManualClock):
    """One that is only set, never left to run, for who looks again and again until it is believed:
    between two looks a writer finds that a moment has gone by.
    """

    def elapsed(self) -> float:
        self._elapsed += 0.6
        return self._elapsed


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


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Look again and again, and fail with `what` when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def log_of(fairlog: Fairlog) -> list[Recorded]:
    """Every event, in order."""
    with fairlog.database.read() as connection:
        return fairlog.log.read(connection, 0, MANY)


def events_in(fairlog: Fairlog) -> int:
    with fairlog.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()
