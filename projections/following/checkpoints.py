"""Checkpoints: the position up to which each asynchronous projection has been built.

A checkpoint is moved in the transaction that writes the projection's rows. It holds the hash of the
log up to its position: if it does not belong to this log (it was changed, or the log was restored
from a backup), the projection has to be built again.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.decisions.ports import EventLog, Versioned
from domain.language.errors import FairlogError, LogUnavailable
from domain.log.chain import GENESIS
from projections.storage import registry
from projections.storage.registry import Registered, check_versions
from projections.storage.rows import digest

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


class Checkpoint(Struct, frozen=True):
    """The position up to which a generation of a projection has been built."""

    generation: int
    position: int  # of the latest event applied; 0: none
    hash: bytes | None  # of the log up to there; None: written by an earlier release


class NoCheckpoint(FairlogError):
    """The projection has no checkpoint that belongs to this log; `AsyncProjector.prepare` helps."""


def checkpoint_of(connection: Connection, projection: Versioned) -> Checkpoint | None:
    """Return the checkpoint of the current generation, or None if this release has not built one.

    Raises `LogTooNew` when another process runs a newer release of the projection.
    """
    registered = registry.read(connection)
    check_versions(registered, [projection])
    found = registered.get(projection.name)
    if found is None or not found.is_built or found.version != projection.version:
        return None
    stored = connection.execute(_at([(projection.name, found.generation)])).one_or_none()
    return None if stored is None else Checkpoint(found.generation, stored.position, stored.hash)


def current_checkpoints(
    connection: Connection, projections: Sequence[Versioned]
) -> Mapping[str, Checkpoint]:
    """Return what `checkpoint_of` returns for each projection, by name, in one statement.

    Raises `LogTooNew`.
    """
    rows = connection.execute(_CURRENT).all()
    registered = {row.name: Registered(row.version, row.generation) for row in rows}
    check_versions(registered, projections)
    versions = {projection.name: projection.version for projection in projections}
    return {
        row.name: Checkpoint(row.generation, row.position, row.hash)
        for row in rows
        if row.position is not None
        and registered[row.name].is_built
        and row.version == versions.get(row.name)
    }


_CURRENT: Final = sa.select(
    registry.registry.c.name,
    registry.registry.c.version,
    registry.registry.c.generation,
    checkpoints.c.position,
    checkpoints.c.hash,
).select_from(
    registry.registry.outerjoin(
        checkpoints,
        sa.and_(
            checkpoints.c.name == registry.registry.c.name,
            checkpoints.c.generation == registry.registry.c.generation,
        ),
    )
)


def hash_at(log: EventLog[Connection], connection: Connection, position: int) -> bytes | None:
    """Return the hash of the log up to a position; None beyond its end."""
    return GENESIS if position == 0 else log.hash_at(connection, position)


def belongs_to(log: EventLog[Connection], connection: Connection, at: Checkpoint) -> bool:
    """Return True if the log has the checkpoint's hash at its position."""
    return at.hash is not None and at.hash == hash_at(log, connection, at.position)


def locked_positions(
    connection: Connection, generations: Sequence[tuple[str, int]]
) -> Mapping[str, int]:
    """Lock checkpoints, each given by name and generation; return their positions by name."""
    rows = connection.execute(_at(generations).with_for_update())
    return {row.name: row.position for row in rows}


def move(connection: Connection, name: str, at: Checkpoint, to: Checkpoint) -> None:
    """Move a locked checkpoint. Raises `LogUnavailable`."""
    moved = connection.execute(
        checkpoints.update()
        .where(
            checkpoints.c.name == name,
            checkpoints.c.generation == at.generation,
            checkpoints.c.position == at.position,
        )
        .values(position=to.position, hash=to.hash)
    )
    # On a Galera cluster the lock does not suffice: certification sees only written rows.
    if moved.rowcount != 1:
        raise LogUnavailable(f"Another process moved the checkpoint of {name!r} meanwhile.")


def insert(connection: Connection, projection: Versioned, at: Checkpoint) -> None:
    """Insert the checkpoint of a new generation."""
    connection.execute(
        checkpoints.insert().values(
            name=projection.name,
            generation=at.generation,
            version=projection.version,
            position=at.position,
            hash=at.hash,
        )
    )


def generations_below(connection: Connection, name: str, generation: int) -> Sequence[int]:
    """Return the generations below one that have a checkpoint."""
    return (
        connection.execute(
            sa.select(checkpoints.c.generation).where(
                checkpoints.c.name == name, checkpoints.c.generation < generation
            )
        )
        .scalars()
        .all()
    )


def remove(connection: Connection, name: str, generation: int) -> None:
    """Delete the checkpoint of a generation."""
    connection.execute(
        checkpoints.delete().where(
            checkpoints.c.name == name, checkpoints.c.generation == generation
        )
    )


def _at(generations: Sequence[tuple[str, int]]) -> sa.Select[tuple[str, int, bytes]]:
    return sa.select(checkpoints.c.name, checkpoints.c.position, checkpoints.c.hash).where(
        sa.or_(
            *(
                sa.and_(checkpoints.c.name == name, checkpoints.c.generation == generation)
                for name, generation in generations
            )
        )
    )
