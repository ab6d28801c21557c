"""Pages of events, read as rows or, from a server, as one JSON text per column."""

from collections.abc import Iterable
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.tables import events
from domain.language.events import Event, Recorded
from domain.language.identifiers import POSITION_MAX, JobId
from domain.language.moments import from_micros
from domain.log.stored_log import UNREADABLE
from domain.log.upcasting import is_current, read

# The columns that `recorded` decodes.
RECORDED: Final = (
    events.c.position,
    events.c.recorded_at,
    events.c.job_id,
    events.c.version,
    events.c.data,
)

# The server builds one JSON text of each column of a page. PyMySQL reads that in a quarter of the
# time that rows take, and no object is made for a row but its event. Positions have no gaps, so a
# range of them is a page. The order is that of the primary key, which the range scan reads.
COLUMNS_TOGETHER: Final = (
    "GROUP_CONCAT(position), GROUP_CONCAT(recorded_at), GROUP_CONCAT(COALESCE(job_id, 'null')),"
    " GROUP_CONCAT(version), GROUP_CONCAT(data)"
)
_TOGETHER: Final = f"SELECT {COLUMNS_TOGETHER} FROM events WHERE position > %s AND position <= %s"
# MAX(position) would read all events of the type, or with statistics the whole log: SQLite's index
# ends with the rowid, which grows with the position, and not with the position.
_LATEST_ON_SQLITE: Final = (
    "SELECT position FROM events INDEXED BY events_by_type WHERE type = ? AND position <= ?"
    " ORDER BY rowid DESC LIMIT 1"
)
decode_numbers: Final = msgspec.json.Decoder(list[int]).decode
_decode_job_ids: Final = msgspec.json.Decoder(list[JobId | None]).decode
_decode_events: Final = msgspec.json.Decoder(list[Event]).decode


def read_page(connection: Connection, after: int, limit: int) -> list[Recorded]:
    """Return up to `limit` events after that position, in log order."""
    if connection.dialect.name != "sqlite" and (together := _together(connection, after, limit)):
        return together
    return recorded(
        connection,
        sa.select(*RECORDED)
        .where(events.c.position > after)
        .order_by(events.c.position)
        .limit(limit),
    )


def latest_position(connection: Connection, type_name: str, up_to: int = POSITION_MAX) -> int:
    """Return the position of the latest event of a type, at most `up_to`; 0 if there is none. One
    look-up in an index, however many there are.
    """
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql(_LATEST_ON_SQLITE, (type_name, up_to)).scalar()
    else:
        latest = sa.select(sa.func.max(events.c.position)).where(
            events.c.type == type_name, events.c.position <= up_to
        )
        found = connection.execute(latest).scalar()
    return 0 if found is None else int(found)


def latest_of(connection: Connection, type_names: Iterable[str], up_to: int = POSITION_MAX) -> int:
    """Return the position of the latest event of any of these types, see `latest_position`."""
    return max(latest_position(connection, name, up_to) for name in type_names)


def _together(connection: Connection, after: int, limit: int) -> list[Recorded] | None:
    """Return a page of events; None if it is empty, or must be read row by row."""
    return page_of(after, *connection.exec_driver_sql(_TOGETHER, (after, after + limit)).one())


def page_of(
    after: int, positions: str | None, times: str, job_ids: str, versions: str, data: bytes
) -> list[Recorded] | None:
    """Decode the events of COLUMNS_TOGETHER after a position; None if there are none, or if they
    must be read row by row.

    That is the case if positions are missing, events have older versions, one cannot be decoded
    (reading the rows names it), or a text is longer than the server allows (that of the data is
    the longest).
    """
    if positions is None:
        return None
    try:
        found = _decode_events(b"[" + data + b"]")
        numbers, recorded_at, of_versions = (
            decode_numbers(f"[{column}]") for column in (positions, times, versions)
        )
        of_jobs = _decode_job_ids(f"[{job_ids}]")
        moments = {micros: from_micros(micros) for micros in set(recorded_at)}  # one for each batch
    except UNREADABLE:
        return None
    expected = range(after + 1, after + 1 + len(found))
    if numbers != list(expected) or not all(map(is_current, set(of_versions))):
        return None
    return list(map(Recorded, expected, map(moments.__getitem__, recorded_at), of_jobs, found))


def recorded(
    connection: Connection, query: "sa.Select[int, int, int | None, int, bytes]"
) -> list[Recorded]:
    """Return the events of a query for the columns RECORDED, in its order."""
    return [
        Recorded(
            position,
            from_micros(at),
            None if job_id is None else JobId(job_id),
            read(version, data),
        )
        for position, at, job_id, version, data in connection.execute(query)
    ]
