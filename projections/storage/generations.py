"""What all projections have in common: tables whose rows carry a generation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Projection, Versioned
from projections.storage.rows import remove_some

ROWS_PER_DELETE: Final = 2000


class Tabled(Versioned, Protocol):
    """A projection as those see it who create, compare and remove its rows."""

    @property
    def tables(self) -> Sequence[sa.Table]: ...


class InlineProjection(Projection[Connection], Tabled, Protocol):
    """One that is kept in the writer's transaction."""


def older_generations(connection: Connection, projection: Tabled, generation: int) -> Sequence[int]:
    """Those before a generation of which rows are left, the newest first."""
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
    """Delete a generation, a little at a time, so that nobody waits long."""
    for table in projection.tables:
        removed = None
        while removed != 0:
            with transaction() as connection:
                removed = remove_some(connection, table, generation, ROWS_PER_DELETE)
