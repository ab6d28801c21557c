"""Filled databases, copied: making the tables takes most of the start of a service, and telling a
history most of a test of it.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

from adapters.database.database import Database
from entrypoints import composition
from entrypoints.service.fairlog import Fairlog

_lock: Final = threading.RLock()  # what is made may itself be of copies
# By name, and for a server by its host and port: the file, or the statements that make it.
_sqlite_files: Final[dict[str, bytes]] = {}
_statements_of: Final[dict[tuple[str, object, object], list[str]]] = {}


def prepare(fairlog: Fairlog) -> None:
    """Prepare a service's database; a new one starts as a copy of one that was prepared before."""
    copied_or_made(fairlog.database, "prepared", lambda: composition.prepare(fairlog))
    composition.prepare(fairlog)


def copied_or_made(database: Database, name: str, make: Callable[[], object]) -> None:
    """Fill a new database by `make`, or as a copy of that which was filled first under this name.
    A database that is not new is left alone. Triggers are not copied from a server.
    """
    with _lock:
        (_copied_or_made_file if database.is_sqlite else _copied_or_made_on_server)(
            database, name, make
        )


def _copied_or_made_file(database: Database, name: str, make: Callable[[], object]) -> None:
    path = Path(database.url.database or "")
    if not database.is_new or not path.parent.is_dir():
        return
    if name in _sqlite_files:
        database.create_file()
        path.write_bytes(_sqlite_files[name])
        return
    make()
    with database.read() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        _sqlite_files[name] = driver.serialize()


def _copied_or_made_on_server(database: Database, name: str, make: Callable[[], object]) -> None:
    key = name, database.url.host, database.url.port
    with database.write() as connection:
        if connection.exec_driver_sql("SHOW TABLES").all():
            return
        for statement in _statements_of.get(key, ()):
            connection.exec_driver_sql(statement)
    if key not in _statements_of:
        make()
        with database.read() as connection:
            _statements_of[key] = list(_statements(connection))


def _statements(connection: Connection) -> Iterator[str]:
    """Give the statements that make the tables and rows of a database. Triggers are left out."""
    cursor = connection.connection.cursor()
    for (table,) in connection.exec_driver_sql("SHOW TABLES").all():
        yield connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1]
        rows = connection.exec_driver_sql(f"SELECT * FROM {table}").all()
        if rows:
            row = f"({','.join(['%s'] * len(rows[0]))})"
            values = ",".join(cursor.mogrify(row, tuple(one)) for one in rows)
            yield f"INSERT INTO {table} VALUES {values}"
