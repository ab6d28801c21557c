"""The path of commands to the log, and what it tells of each batch that it wrote."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog
from msgspec import Struct

from domain.decisions.answers import Answer
from domain.decisions.batch import Outcome
from domain.jobs.ended_attempts import EndedAttempt
from domain.language.commands import Command
from domain.language.errors import FairlogError
from domain.language.identifiers import Kind

_log = structlog.get_logger()

Observer = Callable[["BatchWritten"], None]


class WriterStats(Struct):
    """Counts since the writer started, the last one since the server did."""

    batches: int = 0
    commands: int = 0
    events: int = 0
    retries: int = 0  # transactions tried again
    restarts: int = 0  # of the writer process, after it had ended


class BatchWritten(Struct, frozen=True):
    """The metrics of one batch that is on disk."""

    position: int  # of its latest event
    commands: int
    seconds: float  # from taking it off the queue
    events: Mapping[tuple[str, str], int]  # by type, and the reason of a failed attempt or ""
    decisions: Mapping[tuple[str, bool], int]  # by scope, and whether allowed: submissions
    new_work: Mapping[Kind, int] = {}  # by kind: jobs that can be claimed now, at most
    ended: Sequence[EndedAttempt] = ()

    def has_any(self, types: Container[str]) -> bool:
        """Return True if an event of these types is in the batch."""
        return any(name in types for name, _ in self.events)


class WritePath(Protocol):
    """The path of commands to the log: a writer in this process, or in one of its own."""

    stats: WriterStats
    fatal: FairlogError | None  # why it stopped for good

    async def execute(self, command: Command) -> Answer:
        """Return the answer once it is on disk.

        Raises a Refusal, `QueueFull`, `LogUnavailable` or `WriteFailed`.
        """

    async def execute_each(self, commands: Sequence[Command]) -> list[Outcome]:
        """Return an outcome for each command, in order, once all have one.

        Each is decided alone, and its outcome is what `execute` would return or raise.
        """

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """Block until all have an outcome, for a caller without an event loop."""

    def observe(self, observer: Observer) -> None:
        """Call the observer for each batch on disk, before its callers have their answers."""

    def waiting(self) -> int:
        """Return the number of commands without an answer."""

    def oldest_seconds(self) -> float:
        """Return how long the oldest of them has waited, in seconds; 0 if there is none."""

    def start(self) -> None:
        """Start the writer; call it once."""

    async def attach(self) -> None:
        """Connect the running event loop, before `execute` is used there."""

    def stop(self) -> None:
        """Write what waits, then end. Later commands are refused."""


@contextmanager
def errors_logged() -> Iterator[None]:
    """Log errors of a subscriber: they must not fail a batch that is on disk."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (the subscriber's)
        _log.error("subscriber_failed", exc_info=error)
