"""What stands for a row where tables are compared: the SHA-256 of its columns.

MySQL makes those of its rows by itself: the driver would spend longer on the columns than the
server does on hashing them.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa

SEPARATOR: Final = ","
_NULL: Final = "-"


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
