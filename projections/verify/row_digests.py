"""SHA-256 digests of rows, by which tables are compared.

MySQL hashes its own rows: the driver would take longer to receive the columns than the server takes
to hash them.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from projections.storage.rows import Row, placeholder

SEPARATOR: Final = ","
_NULL: Final = "-"
_SPARSE: Final = 8  # a range of ids is queried while it has fewer ids than this per wanted row


def digest_of(values: Iterable[Any]) -> str:
    """Return the digest of a row in hex, as `digests_expression` gives it.

    A value is a whole number, bytes (hashed after their length) or None.
    """
    texts: list[bytes] = []
    for value in values:
        if value is None:
            texts.append(b"-")
        elif isinstance(value, int):
            texts.append(b"%d" % value)
        else:
            texts.append(b"%d:%b" % (len(value), value))
    return sha256(b",".join(texts)).hexdigest()


def digests_expression(columns: Iterable[sa.Column[Any]]) -> str:
    """Return MySQL's expression for the digests of rows, joined by SEPARATOR.

    A row that is longer than a packet cannot be hashed there, and gets `-`, which equals no digest.
    """
    texts = ", ',', ".join(
        f"COALESCE({column.name}, '{_NULL}')"
        if isinstance(column.type, sa.Integer)
        else f"COALESCE(CONCAT(LENGTH({column.name}), ':', {column.name}), '{_NULL}')"
        for column in columns
    )
    digest = f"COALESCE(SHA2(CONCAT({texts}), 256), '{_NULL}')"
    return f"GROUP_CONCAT({digest} SEPARATOR '{SEPARATOR}')"


def same_rows(
    connection: Connection, table: sa.Table, generation: int, rows: Sequence[Row]
) -> list[Row]:
    """Return the given rows that the generation has stored, equal in all columns.

    A row has no generation and begins with its id, which is its key. Rows are in the order of ids.
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
    """Return a condition on ids and its values: one range, unless that has many other ids."""
    mark = placeholder(connection)
    if ids[-1] - ids[0] < _SPARSE * len(ids):
        return f"{name} BETWEEN {mark} AND {mark}", (ids[0], ids[-1])
    return f"{name} IN ({', '.join([mark] * len(ids))})", ids
