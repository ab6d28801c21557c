"""Rows of one table, read and written many at a time in one statement each.

The statements are made once per table and database and sent as they are: a batch has a handful of
them, and compiling each anew would cost more than the database does. Nothing but placeholders
stands behind VALUES, or PyMySQL would send the rows one by one.
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
SELECTS_PER_STATEMENT_MAX: Final = 250  # SQLite joins up to 500
ROWS_PER_WRITE_MAX: Final = 10_000
# As many as a batch has commands, so that it needs no second statement. 256 jobs are some 300 KB of
# text, which is copied several times on its way to the server: within the processor's cache, where
# 2 MB would not stay and take a half longer.
ROWS_PER_STATEMENT_MAX: Final = 256
PAIRS_PER_STATEMENT_MAX: Final = 250  # keys of several columns; SQLite nests an OR up to 1000 deep

# Bytes, not text: MySQL's utf8mb4_bin takes "a" and "a " for the same.
Identifier = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")
Document = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")

ROW_BYTES: Final = "row bytes"  # in the `info` of a table: about how many, where they are many
FOUND_BY_FOLDS: Final = "found by folds"  # in the `info` of an index, see `create_for_folding`

Row = tuple[Any, ...]
S = TypeVar("S")


def digest(length: int) -> sa.types.TypeEngine[bytes]:
    """A hash of so many bytes."""
    return sa.LargeBinary().with_variant(mysql.BINARY(length), "mysql", "mariadb")


def generation() -> sa.Column[int]:
    """The leading key column: which building of the projection a row belongs to."""
    return sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False)


def upserting(
    table: sa.Table, subjects: Collection[S], row: Callable[[S], Row]
) -> list[Write[Connection]]:
    """`upsert` for later, in pieces that may be transactions of their own.

    A subject's row is made just before it is sent, so none of them may change until then.
    """
    return [_upserting(table, chunk, row) for chunk in _chunks(subjects, ROWS_PER_WRITE_MAX)]


def _upserting(
    table: sa.Table, subjects: Collection[S], row: Callable[[S], Row]
) -> Write[Connection]:
    return lambda connection: upsert(connection, table, map(row, subjects))


def deleting(table: sa.Table, generation: int, keys: Collection[Row]) -> Write[Connection]:
    return lambda connection: delete(connection, table, generation, keys)


def upsert(connection: Connection, table: sa.Table, rows: Iterable[Row]) -> None:
    """Insert rows, or overwrite those that are there; each row has all columns in order."""
    send_rows(connection, _upsert_statement(table, connection.dialect.name), rows)


def insert(connection: Connection, table: sa.Table, rows: Iterable[Row]) -> None:
    """Insert rows that cannot be there yet."""
    send_rows(connection, _insert_statement(table, connection.dialect.name), rows)


def send_rows(connection: Connection, statement: str, rows: Iterable[Row]) -> None:
    """Have an insert done for all rows.

    On MySQL the driver holds it for the next statement (see `adapters.database.mysql_pipeline`),
    which is a tenth of what SQLAlchemy would spend building an empty result.
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
    """Delete by primary key; each key has the columns that follow the generation."""
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
    """`SELECT … WHERE generation = ? AND <column> IN (…)`, for as many keys as are asked for.

    A table without generations is read as a whole.
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
        built = f"generation = {mark} AND " if self._has_generations else ""
        return f"{self._select} WHERE {built}{self._by} IN ({', '.join([mark] * count)})"

    def values(self, generation: int, keys: Sequence[Any]) -> Sequence[Any]:
        """For the placeholders of `text`."""
        return [generation, *keys] if self._has_generations else keys


def fetch(
    connection: Connection, generation: int, *parts: tuple[Query, Collection[Any]]
) -> list[Row]:
    """Run several queries of the same columns as one statement; those without keys are left out."""
    mark = _placeholder(connection.dialect.name)
    rows: list[Row] = []
    wanted = [(query, chunk) for query, keys in parts for chunk in _chunks(keys)]
    while wanted:
        statement: list[str] = []
        values: list[Any] = []
        room = KEYS_PER_STATEMENT_MAX
        while wanted and (not statement or len(wanted[0][1]) <= room):
            query, chunk = wanted.pop(0)
            statement.append(query.text(len(chunk), mark))
            values += query.values(generation, chunk)
            room -= len(chunk)
        found = connection.exec_driver_sql(" UNION ALL ".join(statement), tuple(values))
        rows.extend(tuple(row) for row in found)
    return rows


def limited(connection: Connection, select: str) -> str:
    """A select with an order and a limit, as a part of a `union`.

    SQLite has no parentheses there, and MySQL would write a subquery with documents to disk.
    """
    return f"SELECT * FROM ({select})" if connection.dialect.name == "sqlite" else f"({select})"


def union(connection: Connection, parts: Sequence[tuple[str, Sequence[Any]]]) -> Iterator[Row]:
    """The rows of several selects of the same columns, each with its values, in few statements."""
    for start in range(0, len(parts), SELECTS_PER_STATEMENT_MAX):
        chunk = parts[start : start + SELECTS_PER_STATEMENT_MAX]
        yield from map(
            tuple,
            connection.exec_driver_sql(
                " UNION ALL ".join(text for text, _ in chunk),
                tuple(value for _, values in chunk for value in values),
            ),
        )


def remove_some(connection: Connection, table: sa.Table, generation: int, rows_max: int) -> int:
    """Delete up to `rows_max` rows of a generation by primary key; how many there were."""
    key = list(table.primary_key.columns)
    found = connection.execute(
        sa.select(*key[1:]).where(key[0] == generation).order_by(*key[1:]).limit(rows_max)
    )
    keys = [tuple(row) for row in found]
    delete(connection, table, generation, keys)
    return len(keys)


def create_for_folding(connection: Connection, tables: Sequence[sa.Table]) -> None:
    """Create tables in an empty SQLite database, for a fold alone: with no other indexes than those
    that it finds rows by.
    """
    for table in tables:
        connection.execute(CreateTable(table))
        for index in table.indexes:
            if index.info.get(FOUND_BY_FOLDS):
                connection.execute(CreateIndex(index))


def create_all(connection: Connection, tables: Sequence[sa.Table]) -> None:
    """Create the tables that are missing, whole with their indexes.

    `IF NOT EXISTS`, and the indexes inside the statement where the database takes them there: two
    processes may do this at once. Where none is missing, no right to create one is needed.
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
    found = set(sa.inspect(connection).get_table_names())
    return all(table.name in found for table in tables)


def placeholder(connection: Connection) -> str:
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
    if dialect == "sqlite":
        keys = ", ".join(column.name for column in table.primary_key.columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in values)
        return f"{_insert_statement(table, dialect)} ON CONFLICT ({keys}) DO UPDATE SET {changes}"
    # VALUES() is deprecated in MySQL 8 but is what MySQL, MariaDB and TiDB share.
    changes = ", ".join(f"{name} = VALUES({name})" for name in values)
    return f"{_insert_statement(table, dialect)} ON DUPLICATE KEY UPDATE {changes}"
