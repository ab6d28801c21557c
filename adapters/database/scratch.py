"""A temporary database of our own, for a fold that nobody but this process reads."""

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
    """An empty SQLite file in the folder for temporary files (`TMPDIR`), gone afterwards.

    One transaction from beginning to end; memory is bounded by SQLite's page cache.
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
    connection.execute("PRAGMA synchronous = OFF")  # nor kept
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA cache_size = -8192")  # KiB
