"""Asynchronous projections: each applies the log's events in transactions and at a pace of its own.

The transaction that applies events locks and moves the projection's checkpoint: any number of
processes may run the same projector, and each event is applied exactly once, in order. Events are
read before that transaction, so that on SQLite the writer waits only while rows are written.

A checkpoint holds the hash of the log up to its position. If it does not belong to this log (it was
changed, or the log was restored from a backup), the projection is built again from the start.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Generic, Protocol, TypeVar

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.decisions.ports import EventLog
from domain.language.errors import FairlogError, LogUnavailable
from domain.log.chain import GENESIS
from projections.storage import registry
from projections.storage.generations import Tabled, older_generations, remove_rows
from projections.storage.rows import create_all, digest, have_all

EVENTS_PER_BATCH: Final = 4000
HASH_BYTES: Final = len(GENESIS)

metadata = sa.MetaData()
checkpoints = sa.Table(
    "projection_checkpoints",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, comment="of the latest event applied"),
    # NULL: written by a release without this column; see `adapters/migrations`.
    sa.Column("hash", digest(HASH_BYTES), comment="of the log up to there"),
)


class Positioned(Protocol):
    """An event, or its hash, at a position of the log."""

    @property
    def position(self) -> int: ...


E = TypeVar("E", bound=Positioned)
# Read events after a position (second argument) in order, up to a number of them (third).
Read = Callable[[Connection, int, int], Sequence[E]]
E_contra = TypeVar("E_contra", bound=Positioned, contravariant=True)
Transaction = Callable[[], AbstractContextManager[Connection]]
Progress = Callable[[int, int], None]  # events applied, events in the log


class AsyncProjection(Tabled, Protocol[E_contra]):
    """A read model of `Recorded` events or of `Leaf` hashes.

    Its rows depend on the events alone, never on the size of the batches.
    """

    def apply(self, connection: Connection, generation: int, events: Sequence[E_contra]) -> None:
        """Apply a batch in a handful of statements. The caller moves the checkpoint."""


WithPositions = Sequence[tuple[AsyncProjection[E], int]]  # each with its checkpoint's position


class Checkpoint(Struct, frozen=True):
    """The position up to which a generation of a projection has been built."""

    generation: int
    position: int  # of the latest event applied; 0: none
    hash: bytes | None  # of the log up to there; None: written by an earlier release


class NoCheckpoint(FairlogError):
    """The projection has no checkpoint that belongs to this log; `AsyncProjector.prepare` helps."""


def checkpoint_of(connection: Connection, projection: Tabled) -> Checkpoint | None:
    """Return the checkpoint of the current generation, or None if this release has not built one.

    Raises `LogTooNew` when another process runs a newer release of the projection.
    """
    registered = registry.read(connection)
    registry.check_versions(registered, [projection])
    found = registered.get(projection.name)
    if found is None or not found.is_built or found.version != projection.version:
        return None
    stored = connection.execute(_checkpoint(projection.name, found.generation)).one_or_none()
    return None if stored is None else Checkpoint(found.generation, stored.position, stored.hash)


def belongs_to(log: EventLog[Connection], connection: Connection, at: Checkpoint) -> bool:
    """Return True if the log has the checkpoint's hash at its position."""
    return at.hash is not None and at.hash == _hash_at(log, connection, at.position)


def _hash_at(log: EventLog[Connection], connection: Connection, position: int) -> bytes | None:
    return GENESIS if position == 0 else log.hash_at(connection, position)


def checkpoint_positions(
    connection: Connection, projections: Sequence[AsyncProjection[E]]
) -> WithPositions[E]:
    """Return the projections that have a checkpoint, each with its position."""
    return [
        (one, at.position)
        for one in projections
        if (at := checkpoint_of(connection, one)) is not None and isinstance(at.position, int)
    ]


def _checkpoint(name: str, generation: int) -> sa.Select[tuple[int, bytes]]:
    return sa.select(checkpoints.c.position, checkpoints.c.hash).where(
        checkpoints.c.name == name, checkpoints.c.generation == generation
    )


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
        self._events = events
        self.log = log
        self._reading = reading
        self._writing = writing
        self._events_per_batch = events_per_batch

    def prepare(self) -> bool:
        """Create missing tables, and start from the first event where the checkpoint is unusable.

        Returns True if it started again. Any number of processes may call it at once. Raises
        `LogTooNew`.
        """
        with self._writing() as connection:
            is_complete = have_all(connection, self.projection.tables)
            create_all(connection, [registry.registry, checkpoints, *self.projection.tables])
        with self._writing() as connection:
            self.log.lock_head(connection)
            at = self.checkpoint(connection)
            if at is not None and at.hash is None:
                at = self._with_hash(connection, at)
            if is_complete and at is not None and belongs_to(self.log, connection, at):
                return False
            generation = self._reserve(connection)
        self._remove(generation)
        with self._writing() as connection:
            self.log.lock_head(connection)
            self._insert_checkpoint(connection, generation)
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

    def step(self) -> bool:
        """Apply the next batch of events, if any; return True if more are likely to wait.

        Raises `NoCheckpoint` where `prepare` has to start again, `LogUnavailable` and `LogTooNew`.
        """
        with self._reading() as connection:
            at = self.checkpoint(connection)
            if at is None or not belongs_to(self.log, connection, at):
                raise NoCheckpoint(
                    "There is no checkpoint."
                    if at is None
                    else f"The checkpoint at {at.position} does not belong to this log."
                )
            found = self._events_after(connection, at)
            # Events that this process has just written are cached, and may be newer than the
            # snapshot of this transaction.
            end = self.log.position(connection)
            events = [event for event in found if event.position <= end]
            to = self._advanced(connection, at, events)
        if events:
            self._apply(at, events, to)
        return len(found) == self._events_per_batch or len(events) < len(found)

    def rebuild(self, progress: Progress = lambda _done, _total: None) -> int:
        """Build a new generation and make it current; return the number of events applied."""
        with self._writing() as connection:
            end = self.log.lock_head(connection).position
            generation = self._reserve(connection)
        self._remove(generation)
        with self._writing() as connection:
            self._insert_checkpoint(connection, generation)
        at = Checkpoint(generation, 0, GENESIS)
        # While others write at full speed the end of the log is never reached: it is enough to
        # reach its position at the start and that of the current generation.
        while at.position < end or not self._has_caught_up(at):
            with self._reading() as connection:
                progress(at.position, self.log.position(connection))
                events = self._events_after(connection, at)
                to = self._advanced(connection, at, events)
            if not events:
                break
            self._apply(at, events, to)
            at = to
        progress(at.position, at.position)
        with self._writing() as connection:
            self.log.lock_head(connection)
            current = self._switch(connection, generation)
        self._remove_older(current)
        return at.position

    def _has_caught_up(self, at: Checkpoint) -> bool:
        """Return True if a checkpoint is not behind that of the current generation."""
        with self._reading() as connection:
            current = self.checkpoint(connection)
            if current is None or not belongs_to(self.log, connection, current):
                return True
        return at.position >= current.position

    def _events_after(self, connection: Connection, at: Checkpoint) -> Sequence[E]:
        """Return up to a batch of the events after a checkpoint."""
        return self._events(connection, at.position, self._events_per_batch)

    def _advanced(self, connection: Connection, at: Checkpoint, events: Sequence[E]) -> Checkpoint:
        """Return the checkpoint after these events."""
        if not events:
            return at
        position = events[-1].position
        found = self.log.hash_at(connection, position)
        if found is None:
            raise LogUnavailable(f"The event {position} cannot be read here yet.")
        return Checkpoint(at.generation, position, found)

    def _apply(self, at: Checkpoint, events: Sequence[E], to: Checkpoint) -> None:
        """Apply events and move the checkpoint, unless another process already has."""
        with self._writing() as connection:
            locked = connection.execute(
                _checkpoint(self.projection.name, at.generation).with_for_update()
            ).one_or_none()
            if locked is not None and locked.position == at.position:
                self.projection.apply(connection, at.generation, events)
                self._move(connection, at, to)

    def _move(self, connection: Connection, at: Checkpoint, to: Checkpoint) -> None:
        moved = connection.execute(
            checkpoints.update()
            .where(
                checkpoints.c.name == self.projection.name,
                checkpoints.c.generation == at.generation,
                checkpoints.c.position == at.position,
            )
            .values(position=to.position, hash=to.hash)
        )
        # On a Galera cluster the lock does not suffice: certification sees only written rows.
        if moved.rowcount != 1:
            raise LogUnavailable(
                f"Another process moved the checkpoint of {self.projection.name!r} meanwhile."
            )

    def _with_hash(self, connection: Connection, at: Checkpoint) -> Checkpoint:
        """Add the log's hash to the checkpoint of an earlier release."""
        found = _hash_at(self.log, connection, at.position)
        completed = Checkpoint(at.generation, at.position, found)
        if found is not None:
            self._move(connection, at, completed)
        return completed

    def _reserve(self, connection: Connection) -> int:
        generation = registry.reserve(connection, self.projection)
        self.log.set_registry_digest(connection, registry.digest_of(connection))
        return generation

    def _switch(self, connection: Connection, generation: int) -> int:
        current = registry.switch(connection, self.projection, generation)
        self.log.set_registry_digest(connection, registry.digest_of(connection))
        return current

    def _insert_checkpoint(self, connection: Connection, generation: int) -> None:
        connection.execute(
            checkpoints.insert().values(
                name=self.projection.name,
                generation=generation,
                version=self.projection.version,
                position=0,
                hash=GENESIS,
            )
        )

    def _remove_older(self, generation: int) -> None:
        with self._reading() as connection:
            older = set(older_generations(connection, self.projection, generation))
            older.update(
                connection.execute(
                    sa.select(checkpoints.c.generation).where(
                        checkpoints.c.name == self.projection.name,
                        checkpoints.c.generation < generation,
                    )
                ).scalars()
            )
        for one in sorted(older, reverse=True):
            self._remove(one)

    def _remove(self, generation: int) -> None:
        """Delete a generation: its checkpoint at once, its rows in small transactions."""
        with self._writing() as connection:
            connection.execute(
                checkpoints.delete().where(
                    checkpoints.c.name == self.projection.name,
                    checkpoints.c.generation == generation,
                )
            )
        remove_rows(self._writing, self.projection, generation)
