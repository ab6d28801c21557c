"""The log as raw rows, for verification, which trusts none of their values."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from domain.language.events import Recorded
from domain.language.moments import from_micros
from domain.log.chain import GENESIS, leaf
from domain.log.upcasting import read

C = TypeVar("C", contravariant=True)  # noqa: PLC0105 (a connection; short where it is read)
# Position, type, version, user_id, job_id, recorded_at in microseconds, data, hash. A plain tuple,
# since all rows are read, of any values, since a column may have been changed to anything.
StoredRow = tuple[Any, ...]

# The errors of decoding arbitrary text: other JSON than expected, invalid UTF-8, a number out of
# range, nesting too deep.
UNREADABLE: Final = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)


class Leaf(Struct, frozen=True, gc=False):
    """The leaf hash of one row of the log, see `domain.log.chain`."""

    position: int
    hash: bytes


def leaf_of(row: StoredRow) -> Leaf:
    """Hash one row. Raises any error if a column has a value that Fairlog never writes."""
    position, type_name, version, user_id, job_id, recorded_at, data, _ = row
    return Leaf(
        position, leaf(position, version, type_name.encode(), user_id, job_id, recorded_at, data)
    )


def recorded(row: StoredRow) -> Recorded:
    """Return the event of one row. Raises `LogTooNew`, and any error if a column has a value that
    Fairlog never writes.
    """
    position, _, version, _, job_id, recorded_at, data, _ = row
    return Recorded(position, _moment(recorded_at), job_id, read(version, data))


_moment: Final = lru_cache(maxsize=16)(from_micros)  # the events of a batch have the same time


class StoredHead(Struct, frozen=True):
    """The head row."""

    position: int  # of the latest event
    hash: bytes  # of the latest event
    recorded_at: int  # of the latest event, Unix time in microseconds
    registry_digest: int  # see `SqlEventLog.set_registry_digest`
    saved: int = 0  # position that the rows of the inline projections stand at
    cut: int = 0  # position of the last event that is archived
    cut_hash: bytes = GENESIS  # of the chain up to there
    cut_snapshot: int = 0  # see `domain.decisions.ports.Cut`
    archive_begun: int = 0  # see `domain.jobs.archive.ArchiveState`, as of the next field
    closed_at: int = 0  # Unix time in microseconds
    wrong: Sequence[str] = ()  # further problems of the row, as sentences


class StoredLog(Protocol[C]):
    """A port: see `domain.decisions.ports`."""

    def head(self, connection: C) -> StoredHead | None:
        """Return the head row; None if it is missing."""

    def rows(self, connection: C, after: int, limit: int) -> Sequence[StoredRow]:
        """Return up to `limit` rows after position `after`, in order."""

    def events(self, connection: C, after: int, limit: int) -> Sequence[Recorded] | None:
        """Return the events of these rows; None if a row cannot be decoded so."""

    def body_digests(
        self, connection: C, after: int, up_to: int, limit: int
    ) -> Sequence[tuple[int, str, int]]:
        """Return (position, SHA-256 in hex, size) of up to `limit` bodies, in order.

        Their positions are above `after` and at most `up_to`.
        """


class CutLog(StoredLog[C], Protocol[C]):
    """The log of a database, which may have been cut by an archive."""

    def kept_rows(self, connection: C, up_to: int) -> Sequence[StoredRow]:
        """Return the rows up to a position that stay in the log when they are archived."""

    def archived_tile(self, connection: C, level: int, tile: int) -> bytes:
        """Return a full tile of the Merkle tree over the archived part; empty: it is not there."""

    def snapshot_parts(self, connection: C, snapshot: int) -> Iterator[bytes]:
        """Yield the parts of a snapshot where the log was cut."""
