"""Standings of Fairlog at some positions, so that time travel need not fold the log from 1.

They lie on a grid. The older they are the fewer are kept, so that there are about as many as the
log's length has binary digits, times `DENSITY`; and with very many users the grid is wider, so that
writing them costs each event the same.
"""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.audit.system_state import SystemState, from_snapshot, to_snapshot
from domain.language.events import Recorded
from projections.following.async_projector import Read
from projections.following.state_cache import StateCache
from projections.storage import registry
from projections.storage.rows import ROW_BYTES, Document, delete, generation, insert

VERSION: Final = 1
SPACING: Final = 5_000  # events between two, at the least
DENSITY: Final = 16  # so many are kept of each distance, before every other one goes
PART_BYTES: Final = 1024 * 1024
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
    """`read` gives the events between the latest snapshot and those to apply, after a start."""

    name = "snapshots"
    version = VERSION
    tables = (snapshots,)

    def __init__(self, read: Read[Recorded]) -> None:
        self._read = read
        self._latest: StateCache[SystemState] = StateCache()

    def apply(self, connection: Connection, generation: int, events: Sequence[Recorded]) -> None:
        before = events[0].position - 1
        standing = self._latest.take(connection, generation, before)
        if standing is None:
            nearest = _nearest(connection, sa.literal(generation), before)
            standing = fold(nearest, connection, self._read, before)
        for recorded in events:
            standing.evolve(recorded)
            if standing.position % SPACING == 0:
                _keep(connection, generation, standing)
        standing.tidy()
        self._latest.put(connection, generation, standing.position, standing)


def standing_at(
    connection: Connection, generation: sa.ColumnElement[int], read: Read[Recorded], position: int
) -> SystemState:
    """How things stood behind the event at a position; 0: before the first."""
    standing = fold(_nearest(connection, generation, position), connection, read, position)
    standing.forget_windows()
    return standing


def fold(
    standing: SystemState, connection: Connection, read: Read[Recorded], position: int
) -> SystemState:
    """Go on to a position, a page of events in memory."""
    while standing.position < position:
        events = read(
            connection, standing.position, min(EVENTS_PER_PAGE, position - standing.position)
        )
        if not events:
            break
        for recorded in events:
            standing.evolve(recorded)
        standing.tidy()
    return standing


def spacing(users: int) -> int:
    """How far apart snapshots are: as far as writing one costs no more than the events between."""
    distance = SPACING
    while distance < users:
        distance *= 2
    return distance


def is_kept(position: int, end: int) -> bool:
    """Whether a snapshot is worth its place when the newest one is at `end`."""
    number, age = position // SPACING, (end - position) // SPACING
    return age <= DENSITY * (number & -number)


def _keep(connection: Connection, generation: int, standing: SystemState) -> None:
    position = standing.position
    if position % spacing(len(standing.line.users)):
        return
    data = to_snapshot(standing)
    insert(
        connection,
        snapshots,
        [
            (generation, position, part, data[start : start + PART_BYTES])
            for part, start in enumerate(range(0, len(data), PART_BYTES))
        ],
    )
    stored = connection.execute(
        sa.select(snapshots.c.position, snapshots.c.part).where(
            snapshots.c.generation == generation
        )
    )
    faded = [tuple(row) for row in stored if not is_kept(row.position, position)]
    if faded:
        delete(connection, snapshots, generation, faded)


def _nearest(
    connection: Connection, generation: sa.ColumnElement[int], position: int
) -> SystemState:
    """The latest snapshot at or before a position, or the beginning."""
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
    """The generation in use."""
    return registry.current(SnapshotsProjection.name)
