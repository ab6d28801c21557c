"""The snapshot at the cut of the log, from which a fold goes on once the events are archived.

It has the rows of all projections as they are after the last archived event, without the jobs that
have ended and the tiles that are full (`projections.rebuild.cut` says which), and two lists: the
bodies that stay, and the events that stay. It is stored in parts, each a page of rows of one table,
compressed; its digest is over the parts as they are before compression, and stands in the event
`SegmentArchived`.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.language.errors import LogCorrupt
from projections.storage.generations import Tabled
from projections.storage.rows import ROW_BYTES, Row, insert

ROWS_PER_PART: Final = 2000
PART_BYTES_MAX: Final = 1024 * 1024  # before compression, about, for tables with large rows
BODIES: Final = "bodies"  # (job, position, SHA-256 in hex, size) of the bodies that stay
EVENTS: Final = "events"  # the rows of the events that stay
_LISTS_VERSION: Final = 1


class SnapshotPart(Struct, frozen=True, array_like=True):
    """A page of rows."""

    projection: str  # or `BODIES`, or `EVENTS`
    version: int  # of the projection
    table: str
    rows: list[tuple[Any, ...]]  # without their generation, by primary key


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(SnapshotPart).decode


def parts_of(
    connection: Connection, generation: int, projections: Sequence[Tabled]
) -> Iterator[SnapshotPart]:
    """Yield the rows of a generation of each projection."""
    for projection in projections:
        for table in projection.tables:
            key, *columns = table.columns
            per_part = max(1, min(ROWS_PER_PART, PART_BYTES_MAX // table.info.get(ROW_BYTES, 1)))
            query = sa.select(*columns).where(key == generation)
            found = connection.execute(query.order_by(*list(table.primary_key.columns)[1:]))
            for rows in found.partitions(per_part):
                yield SnapshotPart(
                    projection.name, projection.version, str(table.name), list(map(tuple, rows))
                )


def lists_of(name: str, rows: Iterable[Row]) -> Iterator[SnapshotPart]:
    """Yield a list of the snapshot that belongs to no projection."""
    page: list[Row] = []
    for row in rows:
        page.append(row)
        if len(page) == ROWS_PER_PART:
            yield SnapshotPart(name, _LISTS_VERSION, name, page)
            page = []
    if page:
        yield SnapshotPart(name, _LISTS_VERSION, name, page)


class Digest:
    """The digest of a snapshot, part by part."""

    def __init__(self) -> None:
        self._sha256 = sha256()

    def add(self, content: bytes) -> None:
        self._sha256.update(sha256(content).digest())

    def hex(self) -> str:
        return self._sha256.hexdigest()


def packed(part: SnapshotPart, digest: Digest) -> bytes:
    """Return a part as it is stored, after adding it to the digest."""
    content = _encode(part)
    digest.add(content)
    return zlib.compress(content)


def unpacked(stored: Iterable[bytes], digest: Digest | None = None) -> Iterator[SnapshotPart]:
    """Yield the parts of a stored snapshot. Raises `LogCorrupt`."""
    for data in stored:
        try:
            content = zlib.decompress(data)
            part = _decode(content)
        except (zlib.error, msgspec.MsgspecError) as error:
            raise LogCorrupt(f"The snapshot at the cut of the log was changed ({error}).") from None
        if digest is not None:
            digest.add(content)
        yield part


def _later_snapshots(part: SnapshotPart) -> SnapshotPart:
    """Version 3 has schedules and callbacks, too, and reads the states that are without them."""
    return SnapshotPart(part.projection, 3, "snapshots_v3", part.rows)


# How rows of an earlier version of a projection become those of the next one, by the projection's
# name and the earlier version: what an upcaster is to events.
_CONVERSIONS: Final[Mapping[tuple[str, int], Callable[[SnapshotPart], SnapshotPart]]] = {
    ("snapshots", 2): _later_snapshots,
}


def converted(part: SnapshotPart) -> SnapshotPart:
    """Return a part with the rows of the latest version of its projection."""
    while (conversion := _CONVERSIONS.get((part.projection, part.version))) is not None:
        part = conversion(part)
    return part


def restore(
    parts: Iterable[SnapshotPart],
    projections: Sequence[tuple[Tabled, int]],
    write: Callable[[Write[Connection]], None],
    inspect: Callable[[SnapshotPart], None] = lambda _: None,
) -> None:
    """Insert a snapshot's rows into generations of projections that have no rows yet.

    `write` runs each insert, of one part, in a transaction; `inspect` is called with each part of
    these projections. Rows of earlier versions are converted. Raises `LogCorrupt` for rows of a
    version that this release does not know.
    """
    wanted = {projection.name: (projection, generation) for projection, generation in projections}
    for part in parts:
        if part.projection not in wanted:
            continue
        projection, generation = wanted[part.projection]
        tables = {table.name: table for table in projection.tables}
        part = converted(part)  # noqa: PLW2901
        if part.version != projection.version or part.table not in tables:
            raise LogCorrupt(
                f"The snapshot at the cut of the log has version {part.version} of the projection "
                f"{part.projection!r}, and this release knows only {projection.version}."
            )
        inspect(part)
        rows = [(generation, *row) for row in part.rows]
        write(partial(insert, table=tables[part.table], rows=rows))
