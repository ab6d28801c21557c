"""The Merkle tree over the log, in tiles, for proofs to third parties who do not have the log.

A tile holds up to 256 consecutive hashes of one level of tiles, which is eight levels of the tree:
the next level of tiles holds the roots of full tiles. Only the last tile of a level ever changes,
by growing. They are the tiles of https://c2sp.org/tlog-tiles, one row each, so that each is served
as it is stored. Roots and paths are computed from tiles alone, never from the log's events.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.language.errors import FairlogError, LogCorrupt
from domain.log.merkle import HASH_BYTES, complete_root
from domain.log.stored_log import Leaf
from projections.following.async_projection import Changes
from projections.following.checkpoints import checkpoint_of
from projections.following.state_cache import StateCache
from projections.storage import registry
from projections.storage.rows import ROW_BYTES, Document, Row, generation, upsert

VERSION: Final = 1
TILE: Final = 256  # hashes in a full tile
_LEVELS: Final = 8  # levels of the tree in one level of tiles: 2**8 is 256
ReadTile = Callable[[Connection, int, int], bytes]  # level, number; empty: it is not there
metadata = sa.MetaData()

tiles = sa.Table(
    f"merkle_tiles_v{VERSION}",
    metadata,
    generation(),
    sa.Column("level", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("tile", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hashes", Document, nullable=False, comment="up to 256 of 32 bytes"),
    info={ROW_BYTES: TILE * HASH_BYTES},
)


def full_tiles(position: int) -> Iterator[tuple[int, int]]:
    """Yield each level that has full tiles over the events up to a position, and their number."""
    level, number = 0, position // TILE
    while number:
        yield level, number
        level, number = level + 1, number // TILE


class MerkleProjection:
    """Appends the hashes of the log's rows to the tiles."""

    name = "merkle"
    version = VERSION
    tables = (tiles,)

    def __init__(self) -> None:
        self._cache: StateCache[list[bytes]] = StateCache()  # the last tile of each level

    def fold(self, connection: Connection, generation: int, events: Sequence[Leaf]) -> Changes:
        """Append leaves. Raises `LogCorrupt` if they do not continue the stored ones."""
        before, end = events[0].position - 1, events[-1].position
        if end - before != len(events):
            raise LogCorrupt(f"Events are missing after position {events[0].position}.")
        stored = self._cache.take(connection, generation, before) or []
        last: list[bytes] = []
        rows: list[Row] = []
        index, hashes = before, [leaf.hash for leaf in events]
        while hashes:
            level = len(last)
            first, count = divmod(index, TILE)
            content = b""
            if count:
                content = (
                    stored[level]
                    if level < len(stored)
                    else _read(connection, sa.literal(generation), level, first)
                )
                if len(content) != count * HASH_BYTES:
                    raise LogCorrupt(f"The Merkle tile {first} of level {level} was changed.")
            content += b"".join(hashes)
            size = TILE * HASH_BYTES
            changed = [content[start : start + size] for start in range(0, len(content), size)]
            rows += [(generation, level, first + n, tile) for n, tile in enumerate(changed)]
            last.append(changed[-1])
            index, hashes = first, [complete_root(tile) for tile in changed if len(tile) == size]
        last += stored[len(last) :]
        return Changes(
            [lambda connection: upsert(connection, tiles, rows)],
            partial(self._cache.put, connection, generation, end, last),
        )


def _read(
    connection: Connection, generation: sa.ColumnElement[int], level: int, tile: int
) -> bytes:
    found = connection.execute(
        sa.select(tiles.c.hashes).where(
            tiles.c.generation == generation, tiles.c.level == level, tiles.c.tile == tile
        )
    ).scalar_one_or_none()
    return b"" if found is None else bytes(found)


_PROJECTION: Final = MerkleProjection()  # for its name and version alone


class TileTree:
    """Hashes of complete subtrees (`domain.log.merkle.Subtree`), from the current generation."""

    def __init__(self, connection: Connection, archived: ReadTile) -> None:
        """`archived` reads the full tiles of the archived part, which the projection has not."""
        self._connection = connection
        self._archived = archived
        self._generation = registry.current(MerkleProjection.name)
        self._tiles: dict[tuple[int, int], bytes] = {}  # a proof needs about ten of them

    def size(self) -> int:
        """Return the number of leaves: the position up to which the tree is built.

        Raises `FairlogError` if it was never built.
        """
        at = checkpoint_of(self._connection, _PROJECTION)
        if at is None:
            raise FairlogError("The Merkle tree is not built; run `fairlog migrate`.")
        return at.position

    def __call__(self, level: int, index: int) -> bytes:
        """Return the hash of the subtree of 2**level leaves at an index.

        Raises `LogCorrupt` if tiles are missing.
        """
        tile_level, within = divmod(level, _LEVELS)
        tile, start = divmod(index << within, TILE)
        size = HASH_BYTES << within
        hashes = self.tile(tile_level, tile)[HASH_BYTES * start :][:size]
        if len(hashes) != size:
            raise LogCorrupt("The Merkle tree is incomplete; run `fairlog rebuild`.")
        return complete_root(hashes)

    def tile(self, level: int, tile: int) -> bytes:
        """Return the hashes that a tile has by now, concatenated; empty if there is no such tile.

        It reads one row, by its primary key.
        """
        key = (level, tile)
        if key not in self._tiles:
            self._tiles[key] = _read(
                self._connection, self._generation, level, tile
            ) or self._archived(self._connection, level, tile)
        return self._tiles[key]
