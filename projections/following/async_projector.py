"""Projections that follow the log at their own pace, behind a checkpoint of their own.

The checkpoint moves in the transaction that applies, and is locked by it: any number of processes
may follow at once, and each event is applied exactly once, in order. What is applied is read before
that transaction, so that on SQLite the writer waits only for the rows to be written.

A checkpoint holds the hash of the log up to its position. One that is not of this log (it was
changed, or the log was restored from a backup) is no place to go on from: the projection is begun
anew.
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
    # NULL: written by a release that had none; see `adapters/migrations`.
    sa.Column("hash", digest(HASH_BYTES), comment="of the log up to there"),
)


class Positioned(Protocol):
    @property
    def position(self) -> int: ...


E = TypeVar("E", bound=Positioned)
Read = Callable[[Connection, int, int], Sequence[E]]  # up to so many behind a position
E_contra = TypeVar("E_contra", bound=Positioned, contravariant=True)
Transaction = Callable[[], AbstractContextManager[Connection]]
Progress = Callable[[int, int], None]  # events applied, events in the log


class AsyncProjection(Tabled, Protocol[E_contra]):
    """A read model of events of one type: `Recorded`, or the rows of the log as they are stored.

    Its tables carry the generation first in their keys. They may depend on the events alone, never
    on where the batches end.
    """

    def apply(self, connection: Connection, generation: int, events: Sequence[E_contra]) -> None:
        """Apply a batch in a handful of statements. The caller moves the checkpoint."""


Reached = Sequence[tuple[AsyncProjection[E], int]]  # each with the position it has come to


class Checkpoint(Struct, frozen=True):
    generation: int
    position: int  # of the latest event applied; 0: none
    hash: bytes | None  # of the log up to there; None: an earlier release wrote none


class NoCheckpoint(FairlogError):
    """A projection has no checkpoint, or one that is not of this log; it has to be begun anew."""


def checkpoint_of(connection: Connection, projection: Tabled) -> Checkpoint | None:
    """How far the current generation is; None: it was never begun for this release.

    Raises `LogTooNew` when another process runs a newer release of the projection.
    """
    registered = registry.read(connection)
    registry.check_versions(registered, [projection])
    found = registered.get(projection.name)
    if found is None or not found.is_built or found.version != projection.version:
        return None
    stored = connection.execute(_checkpoint(projection.name, found.generation)).one_or_none()
    return None if stored is None else Checkpoint(found.generation, stored.position, stored.hash)


def is_of(log: EventLog[Connection], connection: Connection, at: Checkpoint) -> bool:
    """Returns True if a checkpoint is of this log."""
    return at.hash is not None and at.hash == _hash_at(log, connection, at.position)


def _hash_at(log: EventLog[Connection], connection: Connection, position: int) -> bytes | None:
    return GENESIS if position == 0 else log.hash_at(connection, position)


def reached(connection: Connection, projections: Sequence[AsyncProjection[E]]) -> Reached[E]:
    """Those that were begun."""
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
    """Keeps one projection. `events` reads up to so many of them behind a position, in order."""

    def __init__(
        self,
        projection: AsyncProjection[E],
        events: Read[E],
        log: EventLog[Connection],
        reading: Transaction,
        writing: Transaction,
        events_a_batch: int = EVENTS_PER_BATCH,
    ) -> None:
        self.projection = projection
        self._events = events
        self.log = log
        self._reading = reading
        self._writing = writing
        self._events_a_batch = events_a_batch

    def prepare(self) -> bool:
        """Create what is missing, and begin anew what cannot go on; whether that was so.

        Any number of processes may do it at once. Raises `LogTooNew`.
        """
        with self._writing() as connection:
            whole = have_all(connection, self.projection.tables)
            create_all(connection, [registry.registry, checkpoints, *self.projection.tables])
        with self._writing() as connection:
            self.log.lock_head(connection)
            at = self.checkpoint(connection)
            if at is not None and at.hash is None:
                at = self._with_hash(connection, at)
            if whole and at is not None and is_of(self.log, connection, at):
                return False
            generation = self._reserve(connection)
        self._remove(generation)
        with self._writing() as connection:
            self.log.lock_head(connection)
            self._begin(connection, generation)
            current = self._switch(connection, generation)
        self._remove_older(current)
        return True

    def checkpoint(self, connection: Connection) -> Checkpoint | None:
        """See `checkpoint_of`."""
        return checkpoint_of(connection, self.projection)

    def lag(self, connection: Connection) -> int:
        """How many events of the log have not been applied yet."""
        at = self.checkpoint(connection)
        return self.log.position(connection) - (0 if at is None else at.position)

    def step(self) -> bool:
        """Apply the next events, if there are any; returns True if more are likely to wait.

        Raises `NoCheckpoint` where `prepare` has to begin anew, `LogUnavailable` and `LogTooNew`.
        """
        with self._reading() as connection:
            at = self.checkpoint(connection)
            if at is None or not is_of(self.log, connection, at):
                raise NoCheckpoint(
                    "There is no checkpoint."
                    if at is None
                    else f"The checkpoint at {at.position} is not of this log."
                )
            found = self._behind(connection, at)
            # Events that this process has just written come from its memory, and may be newer than
            # what this transaction sees.
            end = self.log.position(connection)
            events = [event for event in found if event.position <= end]
            to = self._come(connection, at, events)
        if events:
            self._apply(at, events, to)
        return len(found) == self._events_a_batch or len(events) < len(found)

    def rebuild(self, progress: Progress = lambda _done, _total: None) -> int:
        """Build it again beside the generation in use, and make that the current one; returns how
        many events were applied.
        """
        with self._writing() as connection:
            end = self.log.lock_head(connection).position
            generation = self._reserve(connection)
        self._remove(generation)
        with self._writing() as connection:
            self._begin(connection, generation)
        at = Checkpoint(generation, 0, GENESIS)
        # While others write at full speed the log has no end to come to: it is enough to have what
        # was there and to be level with the generation in use. The rest comes as always.
        while at.position < end or not self._is_level(at):
            with self._reading() as connection:
                progress(at.position, self.log.position(connection))
                events = self._behind(connection, at)
                to = self._come(connection, at, events)
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

    def _is_level(self, at: Checkpoint) -> bool:
        """Whether it has come as far as the generation in use."""
        with self._reading() as connection:
            live = self.checkpoint(connection)
            if live is None or not is_of(self.log, connection, live):
                return True
        return at.position >= live.position

    def _behind(self, connection: Connection, at: Checkpoint) -> Sequence[E]:
        """The events that follow a checkpoint, up to a batch of them."""
        return self._events(connection, at.position, self._events_a_batch)

    def _come(self, connection: Connection, at: Checkpoint, events: Sequence[E]) -> Checkpoint:
        """Return where a checkpoint is to be moved to when these events are applied."""
        if not events:
            return at
        position = events[-1].position
        reached = self.log.hash_at(connection, position)
        if reached is None:
            raise LogUnavailable(f"The event {position} is not to be read here yet.")
        return Checkpoint(at.generation, position, reached)

    def _apply(self, at: Checkpoint, events: Sequence[E], to: Checkpoint) -> None:
        """Unless somebody was quicker."""
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
        # On a cluster the lock alone proves nothing: certification sees only written rows.
        if moved.rowcount != 1:
            raise LogUnavailable(f"Another process moved {self.projection.name!r}; it will go on.")

    def _with_hash(self, connection: Connection, at: Checkpoint) -> Checkpoint:
        """Give the checkpoint of an earlier release the hash that the log has there."""
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

    def _begin(self, connection: Connection, generation: int) -> None:
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
            left = set(older_generations(connection, self.projection, generation))
            left.update(
                connection.execute(
                    sa.select(checkpoints.c.generation).where(
                        checkpoints.c.name == self.projection.name,
                        checkpoints.c.generation < generation,
                    )
                ).scalars()
            )
        for older in sorted(left, reverse=True):
            self._remove(older)

    def _remove(self, generation: int) -> None:
        """Delete a generation: at once its checkpoint, then its rows a little at a time."""
        with self._writing() as connection:
            connection.execute(
                checkpoints.delete().where(
                    checkpoints.c.name == self.projection.name,
                    checkpoints.c.generation == generation,
                )
            )
        remove_rows(self._writing, self.projection, generation)
