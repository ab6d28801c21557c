"""Writes rows of the log that were stored once: after the head, or back into the archived part.

All of it needs the head lock, and the caller has checked the hashes.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log.event_log import SqlEventLog
from adapters.log.event_pages import RECORDED, recorded
from adapters.log.tables import HEAD_ID, bodies, events, log_head, log_snapshot, log_tiles
from domain.decisions.ports import Head
from domain.language.events import ArchiveBegun
from domain.language.moments import from_micros, to_micros
from domain.log.stored_log import StoredRow

_BODY_BYTES_PER_INSERT: Final = 4 * 1024 * 1024  # far below any `max_allowed_packet`
_EVENT_COLUMNS: Final = [column.name for column in events.columns]

Bodies = Iterable[tuple[int, bytes]]  # in log order


def append(
    log: SqlEventLog,
    connection: Connection,
    head: Head,
    rows: Sequence[StoredRow],
    stored_bodies: Bodies,
) -> None:
    """Write rows that follow the head, with their bodies, and move the head."""
    _insert_events(connection, rows)
    _insert_bodies(connection, stored_bodies)
    position, recorded_at, last_hash = rows[-1][0], rows[-1][5], rows[-1][7]
    new = replace(head, position=position, hash=last_hash, now=from_micros(recorded_at))
    log.move_head(connection, head, new)


def fill(connection: Connection, rows: Sequence[StoredRow], stored_bodies: Bodies) -> None:
    """Write archived rows back, in log order, with their bodies; what is there stays."""
    first, last = rows[0][0], rows[-1][0]
    there = _positions(connection, events, first, last)
    _insert_events(connection, [row for row in rows if row[0] not in there])
    there = _positions(connection, bodies, first, last)
    _insert_bodies(connection, (one for one in stored_bodies if one[0] not in there))


def forget_cut(connection: Connection) -> None:
    """Note that no event is archived any more, once all are there.

    Jobs that an archive has closed stay closed.
    """
    begun = sa.select(*RECORDED).where(events.c.type == ArchiveBegun.__name__)
    position, closed_at = 0, 0
    for one in recorded(connection, begun):
        if isinstance(one.event, ArchiveBegun):
            position = max(position, one.position)
            closed_at = max(closed_at, to_micros(one.event.recorded_at))
    connection.execute(
        log_head.update()
        .where(log_head.c.id == HEAD_ID)
        .values(
            archived=0,
            archived_hash=None,
            archived_snapshot=0,
            archive_begun=position,
            closed_at=closed_at,
        )
    )
    connection.execute(log_snapshot.delete())
    connection.execute(log_tiles.delete())


def _insert_events(connection: Connection, rows: Sequence[StoredRow]) -> None:
    if rows:
        values = [dict(zip(_EVENT_COLUMNS, row, strict=True)) for row in rows]
        connection.execute(events.insert(), values)


def _insert_bodies(connection: Connection, stored_bodies: Bodies) -> None:
    waiting: list[dict[str, object]] = []
    size = 0
    for position, body in stored_bodies:
        waiting.append({"position": position, "body": body})
        size += len(body)
        if size >= _BODY_BYTES_PER_INSERT:
            connection.execute(bodies.insert(), waiting)
            waiting, size = [], 0
    if waiting:
        connection.execute(bodies.insert(), waiting)


def _positions(connection: Connection, table: sa.Table, first: int, last: int) -> set[int]:
    found = sa.select(table.c.position).where(table.c.position >= first, table.c.position <= last)
    return set(connection.execute(found).scalars())
