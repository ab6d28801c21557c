"""Comparison of a database's tables with this release's: columns, types, keys, indexes."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import DBAPIError, NoSuchTableError
from sqlalchemy.schema import CreateIndex

from adapters.database.database import Database
from adapters.database.faults import error_code

_DUPLICATE_INDEX: Final = 1061  # another process was quicker
_WIDTH: Final = re.compile(r"^(BIGINT|INTEGER|INT|SMALLINT|TINYINT)(\(\d+\))?")


class SchemaFault(Struct, frozen=True):
    """A difference between a table and this release's definition of it."""

    table: str
    what: str  # the column, key or index
    found: str
    wanted: str


def schema_faults(connection: Connection, tables: Sequence[sa.Table]) -> Iterator[SchemaFault]:
    """Compare each table. Additional indexes are allowed."""
    inspector = sa.inspect(connection)
    for table in tables:
        try:
            stored = {str(column["name"]): column for column in inspector.get_columns(table.name)}
        except NoSuchTableError:
            yield SchemaFault(table.name, "the table", "missing", "there")
            continue
        for column in table.columns:
            yield from _column_faults(connection, table, column, stored.pop(column.name, None))
        for name in stored:
            yield SchemaFault(table.name, f"column {name}", "there", "missing")
        key = [column.name for column in table.primary_key.columns]
        found_key = inspector.get_pk_constraint(table.name)["constrained_columns"]
        if found_key != key:
            yield SchemaFault(
                table.name, "the primary key", ", ".join(found_key) or "none", ", ".join(key)
            )
        indexes = {one["name"]: one["column_names"] for one in inspector.get_indexes(table.name)}
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            columns = [column.name for column in index.columns]
            found = indexes.get(str(index.name))
            if found != columns:
                yield SchemaFault(
                    table.name,
                    f"index {index.name}",
                    "missing" if found is None else f"on {', '.join(map(str, found))}",
                    f"on {', '.join(columns)}",
                )


def create_missing_indexes(database: Database, tables: Sequence[sa.Table]) -> None:
    """Create the missing indexes of existing tables."""
    for table in tables:
        with database.read() as connection:
            inspector = sa.inspect(connection)
            if not inspector.has_table(table.name):
                continue
            present = {one["name"] for one in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name in present:
                continue
            try:
                with database.write() as connection:
                    connection.execute(CreateIndex(index, if_not_exists=database.is_sqlite))
            except DBAPIError as error:
                if error_code(error) != _DUPLICATE_INDEX:
                    raise


def _column_faults(
    connection: Connection,
    table: sa.Table,
    column: "sa.Column[Any]",
    found: ReflectedColumn | None,
) -> Iterator[SchemaFault]:
    name = f"column {column.name}"
    if found is None:
        yield SchemaFault(table.name, name, "missing", _type(connection, column.type))
        return
    stored, wanted = _type(connection, found["type"]), _type(connection, column.type)
    if stored != wanted:
        yield SchemaFault(table.name, name, stored, wanted)
    if bool(found["nullable"]) != bool(column.nullable):
        kinds = {True: "may be NULL", False: "NOT NULL"}
        yield SchemaFault(
            table.name, name, kinds[bool(found["nullable"])], kinds[bool(column.nullable)]
        )


def _type(connection: Connection, kind: "sa.types.TypeEngine[Any]") -> str:
    """Return a type as SQL, without parts that servers and releases write differently."""
    text = kind.compile(dialect=connection.dialect).upper()
    collation = re.search(r"\bCOLLATE \W?(ASCII\w+)", text)  # others are the database's default
    text = re.sub(r" (CHARACTER SET|COLLATE) \S+", "", text)
    text = _WIDTH.sub(r"\1", text).replace("INTEGER", "INT")
    return f"{text} {collation[1].lower()}" if collation else text
