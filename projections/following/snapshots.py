"""Snapshots of the system's state at some positions, so that time travel need not fold all events.

Their positions are multiples of `SPACING`. Older ones are thinned out: about `DENSITY` are kept for
each doubling of the log's length. With very many users or schedules they are further apart, so that
writing them costs the same per event.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.audit.system_state import SystemState, from_snapshot, to_snapshot
from domain.decisions.ports import Write
from domain.language.events import Recorded
from projections.following.async_projection import Changes, Read
from projections.following.state_cache import StateCache
from projections.storage import registry
from projections.storage.rows import ROW_BYTES, Document, delete, generation, insert

VERSION: Final = 3
SPACING: Final = 5_000  # events between two snapshots, at least
DENSITY: Final = 16  # snapshots kept at each distance, before every other one is deleted
PART_BYTES: Final = 1024 * 1024  # a snapshot is stored in parts of this size
EVENTS_PER_PAGE: Final = 4_000
metadata = sa.MetaData()

snapshots = sa.Table(
    f"snapshots_v{VERSION}",
    metadata,
    generation(),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("data", Document, nullable=False),
    info={ROW_BYTES: PART_BYTES},
)


class SnapshotsProjection:
    """Writes and thins out snapshots; after a start, `read` reads the events since the latest."""

    name = "snapshots"
    version = VERSION
    tables = (snapshots,)

    def __init__(self, read: Read[Recorded]) -> None:
        self._read = read
        self._cache: StateCache[SystemState] = StateCache()

    def fold(self, connection: Connection, generation: int, events: Sequence[Recorded]) -> Changes:
        before = events[0].position - 1
        state = self._cache.take(connection, generation, before)
        if state is None:
            nearest = _nearest(connection, sa.literal(generation), before)
            state = fold(nearest, connection, self._read, before)
        writes: list[Write[Connection]] = []
        start = 0
        for end in [n for n, one in enumerate(events, 1) if one.position % SPACING == 0]:
            state.evolve(events[start:end])
            start, position = end, state.position
            if position % spacing(state.size) == 0:
                data = to_snapshot(state)
                writes.append(partial(_store, generation=generation, position=position, data=data))
        state.evolve(events[start:])
        state.tidy()
        return Changes(
            writes, partial(self._cache.put, connection, generation, state.position, state)
        )

    def store_at(self, connection: Connection, generation: int, position: int) -> None:
        """Store the snapshot at a position where the log is cut, up to which events are folded."""
        data = self.snapshot_at(connection, generation, position)
        _insert(connection, generation, position, data)

    def snapshot_at(self, connection: Connection, generation: int, position: int) -> bytes:
        """Return the snapshot at the position up to which events are folded."""
        state = self._cache.take(connection, generation, position)
        if state is None:
            state = fold(
                _nearest(connection, sa.literal(generation), position),
                connection,
                self._read,
                position,
            )
        data = to_snapshot(state)
        self._cache.put(connection, generation, position, state)
        return data


def state_at(
    connection: Connection,
    generation: sa.ColumnElement[int],
    read: Read[Recorded],
    position: int,
    earlier: SystemState | None = None,
) -> SystemState:
    """Return the system's state after the event at a position; 0: before the first event.

    `earlier` is a state at or before it from elsewhere, which is folded further if it is nearer
    than the stored ones.
    """
    nearest = _nearest(connection, generation, position)
    if earlier is not None and earlier.position > nearest.position:
        nearest = earlier
    state = fold(nearest, connection, read, position)
    state.forget_windows()
    return state


def fold(
    state: SystemState, connection: Connection, read: Read[Recorded], position: int
) -> SystemState:
    """Fold events into a state up to a position, one page at a time, and return it."""
    while state.position < position:
        events = read(connection, state.position, min(EVENTS_PER_PAGE, position - state.position))
        if not events:
            break
        state.evolve(events)
        state.tidy()
    return state


def spacing(size: int) -> int:
    """Return the distance of snapshots of a state of this size: `SPACING`, doubled until it is at
    least as much.
    """
    distance = SPACING
    while distance < size:
        distance *= 2
    return distance


def is_kept(position: int, end: int) -> bool:
    """Return True if a snapshot is kept when the newest one is at `end`.

    The one where the log was cut, which is at no multiple of SPACING, is kept until the next cut.
    """
    if position % SPACING:
        return True
    number, age = position // SPACING, (end - position) // SPACING
    return age <= DENSITY * (number & -number)


def _store(connection: Connection, generation: int, position: int, data: bytes) -> None:
    """Store a snapshot, and delete those that are no longer kept."""
    _insert(connection, generation, position, data)
    stored = connection.execute(
        sa.select(snapshots.c.position, snapshots.c.part).where(
            snapshots.c.generation == generation
        )
    )
    thinned = [tuple(row) for row in stored if not is_kept(row.position, position)]
    if thinned:
        delete(connection, snapshots, generation, thinned)


def _insert(connection: Connection, generation: int, position: int, data: bytes) -> None:
    insert(
        connection,
        snapshots,
        [
            (generation, position, part, data[start : start + PART_BYTES])
            for part, start in enumerate(range(0, len(data), PART_BYTES))
        ],
    )


def _nearest(
    connection: Connection, generation: sa.ColumnElement[int], position: int
) -> SystemState:
    """Return the latest snapshot at or before a position, or the state before the first event."""
    nearest = (
        sa.select(sa.func.max(snapshots.c.position))
        .where(snapshots.c.generation == generation, snapshots.c.position <= position)
        .scalar_subquery()
    )
    parts = connection.execute(
        sa.select(snapshots.c.data)
        .where(snapshots.c.generation == generation, snapshots.c.position == nearest)
        .order_by(snapshots.c.part)
    )
    data = b"".join(bytes(part) for (part,) in parts)
    return from_snapshot(data) if data else SystemState()


def current() -> sa.ColumnElement[int]:
    """Return a subquery for the current generation."""
    return registry.current(SnapshotsProjection.name)
