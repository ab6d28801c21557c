"""Signed checkpoints of the log and the tiles of its Merkle tree, for verifiers that others wrote.

Both come from the rows of the Merkle tree alone, as the proofs of `entrypoints.use_cases.proofs`
do; the log's events are not read.
"""

from typing import Final

import structlog
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log.archived import archived_tile
from adapters.signing_key import SigningKey
from domain.language.errors import FairlogError, InvalidInput, LogCorrupt, LogUnavailable
from domain.log.merkle import HASH_BYTES, root
from domain.log.signed_note import checkpoint_text
from projections.following.merkle import TILE, TileTree

TILE_LEVEL_MAX: Final = 63  # by the specification; a log of 2**63 events has 7
_HOW_TO_SIGN: Final = (
    "This server has no key to sign checkpoints with: make one with `fairlog audit key NAME "
    "--checkpoint-key-file FILE`, and start the server with the same option."
)

_log = structlog.get_logger()


class NoSigningKey(FairlogError):
    """The server has no key that signs checkpoints."""

    def __init__(self) -> None:
        super().__init__(_HOW_TO_SIGN)


class UnknownTile(FairlogError):
    """The Merkle tree has no such tile, or does not have it yet."""


class Tile(Struct, frozen=True):
    """The address of a tile, see https://c2sp.org/tlog-tiles."""

    level: int  # 0: hashes of events
    index: int  # from 0
    width: int = TILE  # hashes; fewer than TILE: the tile as it was when it had so many


class _Signed(Struct, frozen=True):
    size: int
    root: bytes
    note: str


class SignedCheckpoints:
    """The signer of one process.

    It remembers what it signed last, and signs nothing that does not continue it: a verifier would
    hold two checkpoints that do not fit against the log for ever.
    """

    def __init__(self, key: SigningKey | None) -> None:
        """`key` is None where none is set: there are tiles, but no checkpoints."""
        self._key = key
        self._last: _Signed | None = None  # may be replaced by an earlier one of another thread

    def latest(self, connection: Connection) -> str:
        """Return the checkpoint of the Merkle tree, which is seconds behind the log at most.

        Raises `NoSigningKey`; `LogUnavailable` while the tree is built again; and `LogCorrupt` if
        it differs from the one that was signed last.
        """
        last = self._last  # before the tree is read, which cannot have been smaller since
        tree = _tree(connection)
        size = tree.size()
        if last is not None and last.size == size:
            return last.note
        signed = self._sign(tree, size)
        if last is not None:
            _check_growth(tree, last, signed)
        self._last = signed
        return signed.note

    def at(self, connection: Connection, position: int) -> str:
        """Return the checkpoint of the log up to a position.

        Raises `NoSigningKey`, and `InvalidInput` for a position beyond the Merkle tree.
        """
        tree = _tree(connection)
        if position > (end := tree.size()):
            raise InvalidInput(f"The log ends at position {end}.")
        return self._sign(tree, position).note

    def tile(self, connection: Connection, tile: Tile) -> bytes:
        """Return the hashes of a tile, concatenated. Raises `UnknownTile`."""
        found = _tree(connection).tile(tile.level, tile.index)[: HASH_BYTES * tile.width]
        if len(found) < HASH_BYTES * tile.width:
            raise UnknownTile(
                f"Tile {tile.index} of level {tile.level} does not have {tile.width} hashes, or "
                "not yet: the size in /checkpoint says which tiles there are."
            )
        return found

    def _sign(self, tree: TileTree, size: int) -> _Signed:
        if self._key is None:
            raise NoSigningKey
        found = root(tree, size)
        text = checkpoint_text(self._key.verifier.name, size, found)
        return _Signed(size, found, self._key.sign(text))


def _tree(connection: Connection) -> TileTree:
    return TileTree(connection, archived_tile)


def _check_growth(tree: TileTree, last: _Signed, signed: _Signed) -> None:
    if signed.size < last.size:
        raise LogUnavailable(
            f"The Merkle tree has {signed.size} events, and the checkpoint that was signed last "
            f"has {last.size}: the tree is being built again; try again later."
        )
    if root(tree, last.size) != last.root:
        _log.error("checkpoint_not_signed", signed_position=last.size, position=signed.size)
        raise LogCorrupt(
            f"The Merkle tree differs from the one that was signed at position {last.size}, so "
            "nothing more is signed: run `fairlog verify`."
        )
