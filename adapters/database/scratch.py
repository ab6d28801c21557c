"""A temporary database, for a fold that only this process reads."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool


@contextmanager
def scratch_database() -> Iterator[Connection]:
    """Yield an empty SQLite file in the directory for temporary files (`TMPDIR`); delete it after.

    All is one transaction. Memory is bounded by SQLite's page cache (8 MiB).
    """
    with tempfile.TemporaryDirectory(prefix="fairlog-") as directory:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(Path(directory) / "scratch.db")),
            poolclass=NullPool,
        )
        event.listen(engine, "connect", _set_up)
        with engine.connect() as connection:
            yield connection


def _set_up(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back
    connection.execute("PRAGMA synchronous = OFF")  # nor kept after a crash
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA cache_size = -8192")  # KiB
