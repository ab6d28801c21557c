"""Prepared databases, copied: making the tables takes most of the start of a service."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

from entrypoints import composition
from entrypoints.service.fairlog import Fairlog

_lock: Final = threading.Lock()
_sqlite_files: Final[list[bytes]] = []  # one, of a prepared database
_statements_of: Final[dict[object, list[str]]] = {}  # that make one, by host and port of a server


def prepare(fairlog: Fairlog) -> None:
    """Prepare a service's database; a new one starts as a copy of one that was prepared before."""
    with _lock:
        (_copy_sqlite if fairlog.database.is_sqlite else _copy_server)(fairlog)
    composition.prepare(fairlog)


def _copy_sqlite(fairlog: Fairlog) -> None:
    database, path = fairlog.database, Path(fairlog.database.url.database or "")
    if not database.is_new or not path.parent.is_dir():
        return
    if _sqlite_files:
        database.create_file()
        path.write_bytes(_sqlite_files[0])
        return
    composition.prepare(fairlog)
    with database.read() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        _sqlite_files.append(driver.serialize())


def _copy_server(fairlog: Fairlog) -> None:
    database = fairlog.database
    server = database.url.host, database.url.port
    with database.write() as connection:
        if connection.exec_driver_sql("SHOW TABLES").all():
            return
        for statement in _statements_of.get(server, ()):
            connection.exec_driver_sql(statement)
    if server not in _statements_of:
        composition.prepare(fairlog)
        with database.read() as connection:
            _statements_of[server] = list(_statements(connection))


def _statements(connection: Connection) -> Iterator[str]:
    """Give the statements that make the tables and rows of a database. Triggers are left out."""
    cursor = connection.connection.cursor()
    for (table,) in connection.exec_driver_sql("SHOW TABLES").all():
        yield connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1]
        for row in connection.exec_driver_sql(f"SELECT * FROM {table}"):
            values = ",".join(["%s"] * len(row))
            yield cursor.mogrify(f"INSERT INTO {table} VALUES ({values})", tuple(row))
