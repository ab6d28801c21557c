"""Projections that follow the log at their own pace, behind a checkpoint of their own.

The checkpoint moves in the transaction that applies, and is locked by it: any number of processes
may follow at once, and each event is applied exactly once, in order. What is applied is read before
that transaction, so that on SQLite the writer waits only for the rows to be written.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Generic, Protocol, TypeVar

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.errors import LogUnavailable
from domain.ports import EventLog
from projections import registry
from projections.generations import Tabled, remove_rows
from projections.rows import create_all, have_all

EVENTS_A_BATCH: Final = 4000

metadata = sa.MetaData()
checkpoints = sa.Table(
    "projection_checkpoints",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, comment="of the latest event applied"),
)


class Positioned(Protocol):
    @property
    def position(self) -> int: ...


E = TypeVar("E", bound=Positioned)
Read = Callable[[Connection, int, int], Sequence[E]]  # up to so many behind a position
E_contra = TypeVar("E_contra", bound=Positioned, contravariant=True)
Transaction = Callable[[], AbstractContextManager[Connection]]
Progress = Callable[[int, int], None]  # events applied, events in the log


class FollowingProjection(Tabled, Protocol[E_contra]):
    """A read model of events of one type: `Recorded`, or the rows of the log as they are stored.

    Its tables carry the generation first in their keys. They may depend on the events alone, never
    on where the batches end.
    """

    def apply(self, connection: Connection, generation: int, events: Sequence[E_contra]) -> None:
        """Apply a batch in a handful of statements. The caller moves the checkpoint."""


Reached = Sequence[tuple[FollowingProjection[E], int]]  # each with the position it has come to


class Checkpoint(Struct, frozen=True):
    generation: int
    position: int  # of the latest event applied; 0: none


def checkpoint_of(connection: Connection, projection: Tabled) -> Checkpoint | None:
    """How far the current generation is; None: it was never begun for this release.

    Raises `LogTooNew` when another process runs a newer release of the projection.
    """
    registered = registry.read(connection)
    registry.check_versions(registered, [projection])
    found = registered.get(projection.name)
    if found is None or not found.is_built or found.version != projection.version:
        return None
    position = connection.execute(_position(projection.name, found.generation)).scalar_one_or_none()
    return None if position is None else Checkpoint(found.generation, position)


def reached(connection: Connection, projections: Sequence[FollowingProjection[E]]) -> Reached[E]:
    """Those that were begun."""
    return [
        (one, at.position)
        for one in projections if (at := checkpoint_of(connection, one)) is not None
    ]  # fmt: skip


def _position(name: str, generation: int) -> sa.Select[int]:
    return sa.select(checkpoints.c.position).where(
        checkpoints.c.name == name, checkpoints.c.generation == generation
    )


class Follower(Generic[E]):
    """Keeps one projection. `events` reads up to so many of them behind a position, in order."""

    def __init__(
        self,
        projection: FollowingProjection[E],
        events: Read[E],
        log: EventLog[Connection],
        reading: Transaction,
        writing: Transaction,
        events_a_batch: int = EVENTS_A_BATCH,
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
            if whole and self.checkpoint(connection) is not None:
                return False
            generation = registry.reserve(connection, self.projection)
        self._remove(generation)
        with self._writing() as connection:
            self.log.lock_head(connection)
            self._begin(connection, generation)
            current = registry.switch(connection, self.projection, generation)
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
        """Apply the next events, if there are any; whether more are likely to wait.

        Raises `LogUnavailable` and `LogTooNew`.
        """
        with self._reading() as connection:
            at = self.checkpoint(connection)
            events = [] if at is None else self._behind(connection, at)
        if at is not None and events:
            self._apply(at, events)
        return len(events) == self._events_a_batch

    def rebuild(self, progress: Progress = lambda _done, _total: None) -> int:
        """Build it again beside the generation in use, and make that the current one; returns how
        many events were applied.
        """
        with self._writing() as connection:
            end = self.log.lock_head(connection).position
            generation = registry.reserve(connection, self.projection)
        self._remove(generation)
        with self._writing() as connection:
            self._begin(connection, generation)
        at = Checkpoint(generation, 0)
        # While others write at full speed the log has no end to come to: it is enough to have what
        # was there and to be level with the generation in use. The rest comes as always.
        while at.position < end or not self._is_level(at):
            with self._reading() as connection:
                progress(at.position, self.log.position(connection))
                events = self._behind(connection, at)
            if not events:
                break
            self._apply(at, events)
            at = Checkpoint(generation, events[-1].position)
        progress(at.position, at.position)
        with self._writing() as connection:
            self.log.lock_head(connection)
            current = registry.switch(connection, self.projection, generation)
        self._remove_older(current)
        return at.position

    def _is_level(self, at: Checkpoint) -> bool:
        """Whether it has come as far as the generation in use."""
        with self._reading() as connection:
            live = self.checkpoint(connection)
        return live is None or at.position >= live.position

    def _behind(self, connection: Connection, at: Checkpoint) -> Sequence[E]:
        """The events that follow a checkpoint, up to a batch of them."""
        return self._events(connection, at.position, self._events_a_batch)

    def _apply(self, at: Checkpoint, events: Sequence[E]) -> None:
        """Unless somebody was quicker."""
        with self._writing() as connection:
            locked = connection.execute(
                _position(self.projection.name, at.generation).with_for_update()
            ).scalar_one_or_none()
            if locked == at.position:
                self.projection.apply(connection, at.generation, events)
                self._move(connection, at, events[-1].position)

    def _move(self, connection: Connection, at: Checkpoint, position: int) -> None:
        moved = connection.execute(
            checkpoints.update()
            .where(
                checkpoints.c.name == self.projection.name,
                checkpoints.c.generation == at.generation,
                checkpoints.c.position == at.position,
            )
            .values(position=position)
        )
        # On a cluster the lock alone proves nothing: certification sees only written rows.
        if moved.rowcount != 1:
            raise LogUnavailable(f"Another process moved {self.projection.name!r}; it will go on.")

    def _begin(self, connection: Connection, generation: int) -> None:
        connection.execute(
            checkpoints.insert().values(
                name=self.projection.name, generation=generation,
                version=self.projection.version, position=0,
            )
        )  # fmt: skip

    def _remove_older(self, generation: int) -> None:
        for older in range(generation - 1, 0, -1):
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
