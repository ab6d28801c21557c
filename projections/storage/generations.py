"""Projections as owners of tables: each row carries the generation that it was built in."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Projection, Versioned
from projections.storage.rows import remove_some

ROWS_PER_DELETE: Final = 2000


class Tabled(Versioned, Protocol):
    """A projection and its tables, as creating, comparing and removing rows needs it."""

    @property
    def tables(self) -> Sequence[sa.Table]:
        """The tables; `generation` is the first column of each and leads its primary key."""


class InlineProjection(Projection[Connection], Tabled, Protocol):
    """A projection that the writer updates in the transaction that appends the events."""


def older_generations(connection: Connection, projection: Tabled, generation: int) -> Sequence[int]:
    """Return the generations below `generation` that still have rows, newest first."""
    found: set[int] = set()
    for table in projection.tables:
        below: int | None = generation
        column = table.c.generation
        while below is not None:
            newest = sa.select(sa.func.max(column)).where(column < below)
            below = connection.execute(newest).scalar_one()
            if below is not None:
                found.add(below)
    return sorted(found, reverse=True)


def remove_rows(
    transaction: Callable[[], AbstractContextManager[Connection]],
    projection: Tabled,
    generation: int,
) -> None:
    """Delete the rows of a generation, at most `ROWS_PER_DELETE` in a transaction.

    Small transactions keep the locks short.
    """
    for table in projection.tables:
        removed = None
        while removed != 0:
            with transaction() as connection:
                removed = remove_some(connection, table, generation, ROWS_PER_DELETE)
