"""What stands for a row where tables are compared: the SHA-256 of its columns.

MySQL makes those of its rows by itself: the driver would spend longer on the columns than the
server does on hashing them.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from projections.storage.rows import Row, placeholder

SEPARATOR: Final = ","
_NULL: Final = "-"
_SPARSE: Final = 8  # ids, not all of rows, for each one that is asked about


def digest_of(values: Iterable[Any]) -> str:
    """In hex; of whole numbers and bytes, each of which is told by its length, and of NULL."""
    told: list[bytes] = []
    for value in values:
        if value is None:
            told.append(b"-")
        elif isinstance(value, int):
            told.append(b"%d" % value)
        else:
            told.append(b"%d:%b" % (len(value), value))
    return sha256(b",".join(told)).hexdigest()


def digests_expression(columns: Iterable[sa.Column[Any]]) -> str:
    """SQL of MySQL for the digests of rows, with SEPARATOR between them.

    One that the server cannot make, since the row is longer than a packet, is no digest.
    """
    told = ", ',', ".join(
        f"COALESCE({column.name}, '{_NULL}')"
        if isinstance(column.type, sa.Integer)
        else f"COALESCE(CONCAT(LENGTH({column.name}), ':', {column.name}), '{_NULL}')"
        for column in columns
    )
    digest = f"COALESCE(SHA2(CONCAT({told}), 256), '{_NULL}')"
    return f"GROUP_CONCAT({digest} SEPARATOR '{SEPARATOR}')"


def same_rows(
    connection: Connection, table: sa.Table, generation: int, rows: Sequence[Row]
) -> list[Row]:
    """Those of the rows that a generation of the table has just so.

    A row is without its generation and begins with the id that is its key; they come in order.
    """
    columns = list(table.columns)[1:]
    condition, values = _with_ids(connection, columns[0].name, [row[0] for row in rows])
    found_in = f" FROM {table.name} WHERE generation = {placeholder(connection)} AND {condition}"
    if connection.dialect.name == "sqlite":
        names = ", ".join(column.name for column in columns)
        found = connection.exec_driver_sql(f"SELECT {names}{found_in}", (generation, *values))
        stored = set(map(tuple, found))
        return [row for row in rows if row in stored]
    digests: str | None = connection.exec_driver_sql(
        f"SELECT {digests_expression(columns)}{found_in}", (generation, *values)
    ).scalar_one()
    known = set((digests or "").split(SEPARATOR))
    return [row for row in rows if digest_of(row) in known]


def _with_ids(connection: Connection, name: str, ids: Sequence[int]) -> tuple[str, Sequence[int]]:
    """A condition and its values; one range, where that does not have many others in it."""
    mark = placeholder(connection)
    if ids[-1] - ids[0] < _SPARSE * len(ids):
        return f"{name} BETWEEN {mark} AND {mark}", (ids[0], ids[-1])
    return f"{name} IN ({', '.join([mark] * len(ids))})", ids
