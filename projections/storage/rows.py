"""Bulk reads and writes of rows: many rows in one statement.

Statements are built once per table and dialect and sent as text: compiling each one with SQLAlchemy
would take longer than the database does. Only placeholders follow VALUES, else PyMySQL would send
the rows one by one.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import islice
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from domain.decisions.ports import Write

KEYS_PER_STATEMENT_MAX: Final = 1000
SELECTS_PER_STATEMENT_MAX: Final = 250  # SQLite allows 500 in a UNION
ROWS_PER_WRITE_MAX: Final = 10_000
# A batch has at most so many commands, so one statement is enough for it. 256 jobs are some 300 KB
# of text, which is copied several times on its way to the server and stays in the processor's
# cache; 2 MB do not, and take half as long again.
ROWS_PER_STATEMENT_MAX: Final = 256
PAIRS_PER_STATEMENT_MAX: Final = 250  # keys of several columns; SQLite nests OR at most 1000 deep

# Bytes, not text: MySQL's utf8mb4_bin compares "a" and "a " as equal.
Identifier = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")
# A queue's name: a kind and at most three resources, of 255 bytes each.
Queue = sa.LargeBinary().with_variant(mysql.VARBINARY(4 * 255 + 3), "mysql", "mariadb")
# A user and a queue.
Lane = sa.LargeBinary().with_variant(mysql.VARBINARY(5 * 255 + 4), "mysql", "mariadb")
Document = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")

FIELDS: Final = "fields"  # key in a column's `info`: the function that gives a document's fields
ROW_BYTES: Final = "row bytes"  # key in a table's `info`: approximate size of a large row
FOUND_BY_FOLDS: Final = "found by folds"  # key in an index's `info`, see `create_for_folding`

Row = tuple[Any, ...]
S = TypeVar("S")


def digest(length: int) -> sa.types.TypeEngine[bytes]:
    """Return the column type of a hash of `length` bytes."""
    return sa.LargeBinary().with_variant(mysql.BINARY(length), "mysql", "mariadb")


def generation(size: type[sa.Integer] = sa.BigInteger) -> sa.Column[int]:
    """Return the leading primary key column: the generation that a row belongs to."""
    return sa.Column("generation", size, primary_key=True, autoincrement=False)


def upserting(
    table: sa.Table, subjects: Collection[S], row: Callable[[S], Row]
) -> list[Write[Connection]]:
    """Return deferred upserts of at most `ROWS_PER_WRITE_MAX` rows, each fit for a transaction.

    `row` is called when a write runs, so no subject may change until then.
    """
    return [_upserting(table, chunk, row) for chunk in _chunks(subjects, ROWS_PER_WRITE_MAX)]


def _upserting(
    table: sa.Table, subjects: Collection[S], row: Callable[[S], Row]
) -> Write[Connection]:
    return lambda connection: upsert(connection, table, map(row, subjects))


def deleting(table: sa.Table, generation: int, keys: Collection[Row]) -> Write[Connection]:
    """Return a deferred `delete`."""
    return lambda connection: delete(connection, table, generation, keys)


def upsert(connection: Connection, table: sa.Table, rows: Iterable[Row]) -> None:
    """Insert rows or overwrite those with the same key; each row has all columns in order."""
    send_rows(connection, _upsert_statement(table, connection.dialect.name), rows)


def insert(connection: Connection, table: sa.Table, rows: Iterable[Row]) -> None:
    """Insert rows whose keys are not stored yet; each row has all columns in order."""
    send_rows(connection, _insert_statement(table, connection.dialect.name), rows)


def send_rows(connection: Connection, statement: str, rows: Iterable[Row]) -> None:
    """Execute an insert statement for all rows. Raises `DBAPIError`.

    On MySQL the driver sends it together with the next statement (see
    `adapters.database.mysql_pipeline`), and SQLAlchemy, which would spend ten times as long
    building an empty result, is bypassed.
    """
    if connection.dialect.name == "sqlite":
        if together := list(rows):
            connection.exec_driver_sql(statement, together)
        return
    driver = connection.dialect.loaded_dbapi
    left = iter(rows)
    with closing(connection.connection.cursor()) as cursor:
        try:
            while some := list(islice(left, ROWS_PER_STATEMENT_MAX)):
                cursor.executemany(statement, some)
        except driver.Error as error:
            raise DBAPIError.instance(statement, None, error, driver.Error) from error


def delete(connection: Connection, table: sa.Table, generation: int, keys: Collection[Row]) -> None:
    """Delete rows by primary key; a key has the columns that follow the generation."""
    names = [column.name for column in table.primary_key.columns][1:]
    mark = _placeholder(connection.dialect.name)
    most = KEYS_PER_STATEMENT_MAX if len(names) == 1 else PAIRS_PER_STATEMENT_MAX
    for chunk in _chunks(keys, most):
        if len(names) == 1:
            condition = f"{names[0]} IN ({', '.join([mark] * len(chunk))})"
        else:  # row values are no index range on MariaDB; a disjunction is
            one = "(" + " AND ".join(f"{name} = {mark}" for name in names) + ")"
            condition = f"({' OR '.join([one] * len(chunk))})"
        connection.exec_driver_sql(
            f"DELETE FROM {table.name} WHERE generation = {mark} AND {condition}",
            (generation, *(value for key in chunk for value in key)),
        )


class Query:
    """`SELECT … WHERE generation = ? AND <column> IN (…)`, for any number of keys.

    A table without generations gets no condition on one.
    """

    def __init__(
        self, table: sa.Table, columns: Iterable[sa.ColumnElement[Any]], by: sa.Column[Any]
    ) -> None:
        self._select = (
            f"SELECT {', '.join(str(column.key) for column in columns)} FROM {table.name}"
        )
        self._by = by.name
        self._has_generations = "generation" in table.columns

    def text(self, count: int, mark: str) -> str:
        """Return the statement for `count` keys; `mark` is the driver's placeholder."""
        of_generation = f"generation = {mark} AND " if self._has_generations else ""
        return f"{self._select} WHERE {of_generation}{self._by} IN ({', '.join([mark] * count)})"

    def values(self, generation: int, keys: Sequence[Any]) -> Sequence[Any]:
        """Return the values of the placeholders of `text`."""
        return [generation, *keys] if self._has_generations else keys


def fetch(
    connection: Connection, generation: int, *queries: tuple[Query, Collection[Any]]
) -> list[Row]:
    """Run several queries of the same columns in few statements.

    Each query comes with its keys; one without keys is skipped.
    """
    mark = _placeholder(connection.dialect.name)
    rows: list[Row] = []
    pending = [(query, chunk) for query, keys in queries for chunk in _chunks(keys)]
    while pending:
        selects: list[str] = []
        values: list[Any] = []
        keys_left = KEYS_PER_STATEMENT_MAX
        while pending and (not selects or len(pending[0][1]) <= keys_left):
            query, chunk = pending.pop(0)
            selects.append(query.text(len(chunk), mark))
            values += query.values(generation, chunk)
            keys_left -= len(chunk)
        found = connection.exec_driver_sql(" UNION ALL ".join(selects), tuple(values))
        rows.extend(tuple(row) for row in found)
    return rows


def limited(connection: Connection, select: str) -> str:
    """Wrap a select that has ORDER BY and LIMIT, so that it can be a branch of a `union`.

    SQLite allows no parentheses there, and MySQL would write a subquery with documents to disk.
    """
    return f"SELECT * FROM ({select})" if connection.dialect.name == "sqlite" else f"({select})"


def union(connection: Connection, selects: Sequence[tuple[str, Sequence[Any]]]) -> Iterator[Row]:
    """Yield the rows of several selects of the same columns, run in few statements.

    Each select comes with the values of its placeholders.
    """
    for start in range(0, len(selects), SELECTS_PER_STATEMENT_MAX):
        chunk = selects[start : start + SELECTS_PER_STATEMENT_MAX]
        yield from map(
            tuple,
            connection.exec_driver_sql(
                " UNION ALL ".join(text for text, _ in chunk),
                tuple(value for _, values in chunk for value in values),
            ),
        )


def remove_some(
    connection: Connection,
    table: sa.Table,
    generation: int,
    rows_max: int,
    *conditions: sa.ColumnElement[bool],
) -> int:
    """Delete at most `rows_max` rows of a generation that meet all conditions; return how many were
    deleted.
    """
    key = list(table.primary_key.columns)
    found = connection.execute(
        sa.select(*key[1:])
        .where(key[0] == generation, *conditions)
        .order_by(*key[1:])
        .limit(rows_max)
    )
    keys = [tuple(row) for row in found]
    delete(connection, table, generation, keys)
    return len(keys)


def create_for_folding(connection: Connection, tables: Sequence[sa.Table]) -> None:
    """Create tables in an empty SQLite database with only the indexes that a fold reads by."""
    for table in tables:
        connection.execute(CreateTable(table))
        for index in table.indexes:
            if index.info.get(FOUND_BY_FOLDS):
                connection.execute(CreateIndex(index))


def create_all(connection: Connection, tables: Sequence[sa.Table]) -> None:
    """Create the missing tables with their indexes.

    Two processes may do this at once: hence `IF NOT EXISTS`, and on MySQL the indexes inside the
    statement. If no table is missing, the right to create one is not needed.
    """
    present = set(sa.inspect(connection).get_table_names())
    for table in tables:
        if table.name in present:
            continue
        if connection.dialect.name == "sqlite":
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
        else:
            connection.exec_driver_sql(_create_statement(connection, table))


def _create_statement(connection: Connection, table: sa.Table) -> str:
    text = str(CreateTable(table, if_not_exists=True).compile(dialect=connection.dialect)).rstrip()
    indexes = [
        f", INDEX {index.name} ({', '.join(column.name for column in index.columns)})"
        for index in sorted(table.indexes, key=lambda index: str(index.name))
    ]
    return text.removesuffix(")") + "".join(indexes) + ")"


def have_all(connection: Connection, tables: Sequence[sa.Table]) -> bool:
    """Return True if all tables exist."""
    found = set(sa.inspect(connection).get_table_names())
    return all(table.name in found for table in tables)


def placeholder(connection: Connection) -> str:
    """Return the driver's placeholder for a value."""
    return _placeholder(connection.dialect.name)


def _placeholder(dialect: str) -> str:
    return "?" if dialect == "sqlite" else "%s"


def _chunks(keys: Collection[Any], most: int = KEYS_PER_STATEMENT_MAX) -> list[list[Any]]:
    ordered = list(keys)
    return [ordered[start : start + most] for start in range(0, len(ordered), most)]


@lru_cache
def _insert_statement(table: sa.Table, dialect: str) -> str:
    names = ", ".join(column.name for column in table.columns)
    marks = ", ".join([_placeholder(dialect)] * len(table.columns))
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks})"


@lru_cache
def _upsert_statement(table: sa.Table, dialect: str) -> str:
    values = [column.name for column in table.columns if not column.primary_key]
    if not values:  # a statement has to change something: the key, to what it is
        values = [list(table.primary_key.columns)[-1].name]
    if dialect == "sqlite":
        keys = ", ".join(column.name for column in table.primary_key.columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in values)
        return f"{_insert_statement(table, dialect)} ON CONFLICT ({keys}) DO UPDATE SET {changes}"
    # VALUES() is deprecated in MySQL 8 but is what MySQL, MariaDB and TiDB share.
    changes = ", ".join(f"{name} = VALUES({name})" for name in values)
    return f"{_insert_statement(table, dialect)} ON DUPLICATE KEY UPDATE {changes}"
