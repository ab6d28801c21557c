"""The database by its driver alone, PyMySQL or sqlite3: what a figure of ours is held against."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import pymysql
from sqlalchemy import make_url

from tests.benchmarks.site import Kind

Row = tuple[Any, ...]

COLUMNS: Final = ("position", "type", "version", "user_id", "job_id", "recorded_at", "data", "hash")
EVENTS_PER_PAGE: Final = 4000  # as a rebuild and a check read


class BareDatabase(ABC):
    """One connection; each `insert` and `send` is a durable transaction of its own."""

    can_render: bool  # whether a statement with its values is text

    @abstractmethod
    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Insert rows of the log's columns."""

    @abstractmethod
    def render(self, table: str, rows: Sequence[Row]) -> str:
        """The statement that `insert` would send."""

    @abstractmethod
    def send(self, statement: str) -> None: ...

    @abstractmethod
    def rows(self, query: str) -> Sequence[Row]: ...

    @abstractmethod
    def close(self) -> None: ...

    def scan(self, columns: Sequence[str]) -> int:
        """Fetch these columns of the whole log, page by page behind the last position.

        How many rows there were. `position` has to be the first column.
        """
        count = after = 0
        while found := self.rows(
            f"SELECT {', '.join(columns)} FROM events WHERE position > {after}"
            f" ORDER BY position LIMIT {EVENTS_PER_PAGE}"
        ):
            count += len(found)
            after = found[-1][0]
        return count


def open_bare(kind: Kind, url: str) -> BareDatabase:
    return _SQLite(url) if kind == "sqlite" else _MariaDB(url)


def hand_table(database: BareDatabase, name: str) -> str:
    """Create an empty table with the columns and the indexes of the log; its name."""
    if isinstance(database, _MariaDB):
        database.send(f"CREATE TABLE {name} LIKE events")
        return name
    definitions = database.rows(
        "SELECT sql FROM sqlite_master WHERE tbl_name = 'events' AND type IN ('table', 'index')"
        " AND sql IS NOT NULL ORDER BY type DESC"
    )
    for (definition,) in definitions:
        renamed = definition.replace("INDEX events_", f"INDEX {name}_")
        database.send(
            renamed.replace("TABLE events", f"TABLE {name}").replace("ON events", f"ON {name}")
        )
    return name


class _MariaDB(BareDatabase):
    can_render = True

    def __init__(self, url: str) -> None:
        parts = make_url(url)
        self._connection = pymysql.connect(
            host=parts.host,
            port=parts.port or 3306,
            user=parts.username,
            password=parts.password or "",
            database=parts.database,
            charset="utf8mb4",
            init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        )

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_insert(table, "%s"), rows)
        self._connection.commit()

    def render(self, table: str, rows: Sequence[Row]) -> str:
        marks = f"({', '.join(['%s'] * len(COLUMNS))})"
        with self._connection.cursor() as cursor:
            values = [cursor.mogrify(marks, row) for row in rows]
        return _insert(table, "%s").removesuffix(marks) + ", ".join(values)

    def send(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
        self._connection.commit()

    def rows(self, query: str) -> Sequence[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def close(self) -> None:
        self._connection.close()


class _SQLite(BareDatabase):
    can_render = False

    def __init__(self, url: str) -> None:
        self._connection = sqlite3.connect(make_url(url).database or "", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_insert(table, "?"), rows)
        self._connection.execute("COMMIT")

    def render(self, table: str, rows: Sequence[Row]) -> str:
        raise NotImplementedError

    def send(self, statement: str) -> None:
        self._connection.execute(statement)

    def rows(self, query: str) -> Sequence[Row]:
        return self._connection.execute(query).fetchall()

    def close(self) -> None:
        self._connection.close()


def _insert(table: str, mark: str) -> str:
    return f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join([mark] * len(COLUMNS))})"
