"""Plain SQL through a driver."""

import sqlite3
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql


def connect(url: str) -> Any:
    """Connect to `sqlite:///PATH` or `mysql+pymysql://USER:PASSWORD@HOST:PORT/NAME`."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    return pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.removeprefix("/"),
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=5,
        read_timeout=20,
        write_timeout=20,
    )


def rows(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    """Return all rows of a statement without parameters."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())
