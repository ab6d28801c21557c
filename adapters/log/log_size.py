"""The size of the database: bytes by table, events a day, the oldest event, and free space.

All of it is read in some milliseconds, whatever the size: statistics of the database, and a few
rows by their positions.
"""

import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from adapters.database.faults import error_code
from adapters.log.archived import cut
from adapters.log.audit_log import first_at
from adapters.log.event_log import head_position
from adapters.log.tables import events
from domain.language.moments import from_micros

DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)
# A larger SQLite file would have to be read from end to end to tell its tables apart.
SQLITE_BYTES_BY_TABLE_MAX: Final = 64 * 1024 * 1024
# A table that there is not, and rights that the account lacks.
_NOT_SHOWN: Final = frozenset({1109, 1146, 1142, 1044, 1227})
# MySQL answers with statistics that may be a day old unless it is told not to; MariaDB, which has
# no such setting, skips the comment.
_FRESH: Final = "SET @fairlog_sizes = 1 /*!80000 , SESSION information_schema_stats_expiry = 0 */"


class LogSize(Struct, frozen=True, kw_only=True):
    """The size of the database in bytes, with indexes; a server's sizes are estimates."""

    total: int  # all tables of the database; SQLite: the file
    tables: Mapping[str, int]  # empty: a SQLite file that is too large to tell
    events: int  # that are not archived
    oldest_at: datetime | None  # when the first of them was recorded, UTC; None: there is none
    events_per_day: float  # of the last day, or of a shorter log
    free: int | None  # on the disk of the data; None: the database does not say
    limit: int | None  # that was set; None: none

    @property
    def growth_per_day(self) -> float:
        """Bytes, if an event takes as much as those before it, with all that belongs to it."""
        return self.total / self.events * self.events_per_day if self.events else 0.0

    @property
    def days_left(self) -> float | None:
        """Days until the limit is reached; 0 beyond it. None: no limit, or no growth."""
        if self.limit is None:
            return None
        room = max(0, self.limit - self.total)
        if not room:
            return 0.0
        return room / self.growth_per_day if self.growth_per_day else None


def read_size(connection: Connection, now: datetime, limit: int | None) -> LogSize:
    """Read the size of the database at a time, which is the log's."""
    is_sqlite = connection.dialect.name == "sqlite"
    total, tables = _sqlite_sizes(connection) if is_sqlite else _server_sizes(connection)
    oldest = connection.execute(  # of the events that are not archived
        sa.select(events.c.position, events.c.recorded_at)
        .where(events.c.position > cut(connection).position)
        .order_by(events.c.position)
        .limit(1)
    ).one_or_none()
    head = head_position(connection)
    oldest_at = None if oldest is None else from_micros(oldest.recorded_at)
    return LogSize(
        total=total,
        tables=tables,
        events=0 if oldest is None else head - oldest.position + 1,
        oldest_at=oldest_at,
        events_per_day=0.0 if oldest_at is None else _rate(connection, head, oldest_at, now),
        free=_sqlite_free(connection) if is_sqlite else _server_free(connection),
        limit=limit,
    )


def _rate(connection: Connection, head: int, oldest_at: datetime, now: datetime) -> float:
    since = max(now - DAY, oldest_at)
    of_a_day = max(now - since, _HOUR) / DAY
    return (head + 1 - first_at(connection, since)) / of_a_day


def _server_sizes(connection: Connection) -> tuple[int, Mapping[str, int]]:
    connection.exec_driver_sql(_FRESH)
    rows = connection.exec_driver_sql(
        "SELECT table_name, COALESCE(data_length, 0) + COALESCE(index_length, 0)"
        " FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'"
    )
    tables = {str(name): int(size) for name, size in rows}
    return sum(tables.values()), tables


def _server_free(connection: Connection) -> int | None:
    """Return what MariaDB's plugin DISKS says of the disk that holds the data, if it is there."""
    try:
        data = str(connection.exec_driver_sql("SELECT @@datadir").scalar_one())
        disks = connection.exec_driver_sql(
            "SELECT path, available FROM information_schema.disks"
        ).all()
    except DBAPIError as error:
        if error_code(error) in _NOT_SHOWN:
            return None
        raise
    folder = PurePosixPath(data)
    holding = [(len(path), kib) for path, kib in disks if folder.is_relative_to(str(path))]
    return int(max(holding)[1]) * 1024 if holding else None


def _sqlite_sizes(connection: Connection) -> tuple[int, Mapping[str, int]]:
    pages, page_bytes = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("page_count", "page_size")
    )
    total = pages * page_bytes
    if total > SQLITE_BYTES_BY_TABLE_MAX or not _has_dbstat(connection):
        return total, {}
    rows = connection.exec_driver_sql(
        "SELECT m.tbl_name, SUM(s.pgsize) FROM dbstat AS s JOIN sqlite_master AS m"
        " ON m.name = s.name GROUP BY m.tbl_name"
    )
    return total, {str(name): int(size) for name, size in rows}


def _has_dbstat(connection: Connection) -> bool:
    query = "SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'"
    return connection.exec_driver_sql(query).first() is not None


def _sqlite_free(connection: Connection) -> int | None:
    file = connection.exec_driver_sql(
        "SELECT file FROM pragma_database_list WHERE name = 'main'"
    ).scalar_one()
    return shutil.disk_usage(Path(file).parent).free if file else None
