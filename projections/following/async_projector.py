"""Projectors: they apply the log's events to asynchronous projections, behind the writer.

The transaction that writes rows locks and moves the checkpoints of their projections: any number of
processes may run the same projectors, and each event is applied exactly once, in order. Events are
read and folded before that transaction, so that on SQLite the writer waits only while rows are
written.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Generic

from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.decisions.ports import EventLog
from domain.language.errors import LogUnavailable
from projections.following import checkpoints
from projections.following.async_projection import AsyncProjection, Changes, E, Read
from projections.following.checkpoints import (
    Checkpoint,
    NoCheckpoint,
    belongs_to,
    checkpoint_of,
    current_checkpoints,
    hash_at,
)
from projections.storage import registry
from projections.storage.generations import older_generations, remove_rows
from projections.storage.rows import create_all, have_all
from projections.storage.snapshot import restore, unpacked

EVENTS_PER_BATCH: Final = 8192  # whole tiles of the Merkle tree

Transaction = Callable[[], AbstractContextManager[Connection]]
Progress = Callable[[int, int], None]  # events applied, events in the log


class AsyncProjector(Generic[E]):
    """Keeps one asynchronous projection up to date."""

    def __init__(
        self,
        projection: AsyncProjection[E],
        events: Read[E],
        log: EventLog[Connection],
        reading: Transaction,
        writing: Transaction,
        events_per_batch: int = EVENTS_PER_BATCH,
    ) -> None:
        self.projection = projection
        self.log = log
        self.reading = reading
        self.writing = writing
        self._events = events
        self._events_per_batch = events_per_batch

    def prepare(self) -> bool:
        """Create missing tables, and start again where the checkpoint is unusable: from the first
        event, or from the snapshot where the log was cut.

        Returns True if it started again. Any number of processes may call it at once. Raises
        `LogTooNew`.
        """
        with self.writing() as connection:
            is_complete = have_all(connection, self.projection.tables)
            create_all(
                connection, [registry.registry, checkpoints.checkpoints, *self.projection.tables]
            )
        with self.writing() as connection:
            self.log.lock_head(connection)
            at = self.checkpoint(connection)
            if at is not None and at.hash is None:
                at = self._with_hash(connection, at)
            if is_complete and at is not None and belongs_to(self.log, connection, at):
                return False
            generation = self._reserve(connection)
        self._remove(generation)
        self._begin(generation)
        with self.writing() as connection:
            self.log.lock_head(connection)
            current = self._switch(connection, generation)
        self._remove_older(current)
        return True

    def checkpoint(self, connection: Connection) -> Checkpoint | None:
        """See `checkpoint_of`."""
        return checkpoint_of(connection, self.projection)

    def lag(self, connection: Connection) -> int:
        """Return the number of events in the log that have not been applied yet."""
        at = self.checkpoint(connection)
        return self.log.position(connection) - (0 if at is None else at.position)

    def step(self) -> int:
        """Apply the next batch of events, if any; return the number of events left.

        Raises what `step_all` raises.
        """
        return step_all([self]).left

    def fold_next(
        self, connection: Connection, at: Checkpoint | None, log_end: "LogEnd"
    ) -> "FoldedBatch":
        """Fold the next batch of events after the stored checkpoint. Raises `NoCheckpoint`."""
        if at is None or at.hash is None or at.hash != log_end.hash_at(at.position):
            raise NoCheckpoint(
                "There is no checkpoint."
                if at is None
                else f"The checkpoint at {at.position} does not belong to this log."
            )
        limit = min(log_end.position - at.position, self._events_per_batch)
        events = self._events(connection, at.position, limit) if limit > 0 else ()
        to, changes = at, Changes(())
        if events:
            to = Checkpoint(
                at.generation, events[-1].position, log_end.hash_at(events[-1].position)
            )
            if to.hash is None:
                raise LogUnavailable(f"The event {to.position} cannot be read here yet.")
            changes = self.projection.fold(connection, at.generation, events)
        return FoldedBatch(self.projection.name, at, to, changes, log_end.position - to.position)

    def rebuild(self, progress: Progress = lambda _done, _total: None) -> int:
        """Build a new generation and make it current; return the number of events applied."""
        with self.writing() as connection:
            end = self.log.lock_head(connection).position
            generation = self._reserve(connection)
        self._remove(generation)
        at = self._begin(generation)
        # While others write at full speed the end of the log is never reached: it is enough to
        # reach its position at the start and that of the current generation.
        while at.position < end or not self._has_caught_up(at):
            with self.reading() as connection:
                batch = self.fold_next(connection, at, LogEnd(self.log, connection))
                progress(at.position, at.position + batch.left)
            if batch.to == at:
                break
            write_all(self.writing, [batch])
            at = batch.to
        progress(at.position, at.position)
        with self.writing() as connection:
            self.log.lock_head(connection)
            current = self._switch(connection, generation)
        self._remove_older(current)
        return at.position

    def _begin(self, generation: int) -> Checkpoint:
        """Begin a generation with the rows that come before the first event of the log."""
        with self.reading() as connection:
            cut = self.log.cut(connection)
            if cut.position:
                restore(
                    unpacked(self.log.snapshot_parts(connection, cut.snapshot)),
                    [(self.projection, generation)],
                    self._in_transaction,
                )
        at = Checkpoint(generation, cut.position, cut.hash)
        with self.writing() as connection:
            checkpoints.insert(connection, self.projection, at)
        return at

    def _in_transaction(self, write: Callable[[Connection], None]) -> None:
        with self.writing() as connection:
            write(connection)

    def _has_caught_up(self, at: Checkpoint) -> bool:
        """Return True if a checkpoint is not behind that of the current generation."""
        with self.reading() as connection:
            current = self.checkpoint(connection)
            if current is None or not belongs_to(self.log, connection, current):
                return True
        return at.position >= current.position

    def _with_hash(self, connection: Connection, at: Checkpoint) -> Checkpoint:
        """Add the log's hash to the checkpoint of an earlier release."""
        found = hash_at(self.log, connection, at.position)
        completed = Checkpoint(at.generation, at.position, found)
        if found is not None:
            checkpoints.move(connection, self.projection.name, at, completed)
        return completed

    def _reserve(self, connection: Connection) -> int:
        generation = registry.reserve(connection, self.projection)
        self.log.set_registry_digest(connection, registry.digest_of(connection))
        return generation

    def _switch(self, connection: Connection, generation: int) -> int:
        current = registry.switch(connection, self.projection, generation)
        self.log.set_registry_digest(connection, registry.digest_of(connection))
        return current

    def _remove_older(self, generation: int) -> None:
        with self.reading() as connection:
            older = set(older_generations(connection, self.projection, generation))
            older.update(
                checkpoints.generations_below(connection, self.projection.name, generation)
            )
        for one in sorted(older, reverse=True):
            self._remove(one)

    def _remove(self, generation: int) -> None:
        """Delete a generation: its checkpoint at once, its rows in small transactions."""
        with self.writing() as connection:
            checkpoints.remove(connection, self.projection.name, generation)
        remove_rows(self.writing, self.projection, generation)


class LogEnd:
    """The end of the log, as one transaction reads it; each value is read once."""

    def __init__(self, log: EventLog[Connection], connection: Connection) -> None:
        self._log = log
        self._connection = connection
        self._hashes: dict[int, bytes | None] = {}
        self.position = log.position(connection)  # of the latest event

    def hash_at(self, position: int) -> bytes | None:
        """Return the hash of the log up to a position; None beyond its end."""
        if position not in self._hashes:
            self._hashes[position] = hash_at(self._log, self._connection, position)
        return self._hashes[position]


class FoldedBatch(Struct, frozen=True):
    """The next events of one projection, folded and not written yet."""

    name: str  # of the projection
    at: Checkpoint  # before the events
    to: Checkpoint  # after them; equal to `at` if there are none
    changes: Changes
    left: int  # events in the log after them


class Step(Struct, frozen=True):
    """The result of `step_all`."""

    left: int  # events that the projection furthest behind has not applied yet
    positions: Mapping[
        str, int
    ]  # by projection: up to where it is applied, by this process or another


def step_all(projectors: Sequence[AsyncProjector[Any]]) -> Step:
    """Apply the next events to projections of one log, in one transaction.

    Raises `NoCheckpoint` where `prepare` has to start again, `LogUnavailable` and `LogTooNew`; then
    no projection has changed.
    """
    first = projectors[0]
    with first.reading() as connection:
        found = current_checkpoints(connection, [one.projection for one in projectors])
        log_end = LogEnd(first.log, connection)
        batches = [
            one.fold_next(connection, found.get(one.projection.name), log_end) for one in projectors
        ]
    write_all(first.writing, [one for one in batches if one.to != one.at])
    return Step(max(one.left for one in batches), {one.name: one.to.position for one in batches})


def write_all(writing: Transaction, batches: Sequence[FoldedBatch]) -> None:
    """Write batches and move their checkpoints, but for those that another process has moved."""
    if not batches:
        return
    with writing() as connection:
        positions = checkpoints.locked_positions(
            connection, [(one.name, one.at.generation) for one in batches]
        )
        own = [one for one in batches if positions.get(one.name) == one.at.position]
        for batch in own:
            for write in batch.changes.writes:
                write(connection)
            checkpoints.move(connection, batch.name, batch.at, batch.to)
    for batch in own:
        batch.changes.keep_state()
