"""Reads a part of the log from the database as `Archive` takes it: in log order, page by page."""

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.tables import bodies
from domain.log.stored_log import StoredLog, StoredRow

ROWS_PER_PAGE: Final = 4_000
BODIES_PER_PAGE: Final = 32  # of up to 1 MiB each


def row_pages(
    log: StoredLog[Connection], connection: Connection, after: int, up_to: int
) -> Iterator[Sequence[StoredRow]]:
    """Yield the rows after a position, up to another one, inclusive."""
    while after < up_to:
        page = log.rows(connection, after, min(ROWS_PER_PAGE, up_to - after))
        inside = [row for row in page if row[0] <= up_to]
        if not inside:
            return
        yield inside
        after = inside[-1][0]


def bodies_between(connection: Connection, after: int, up_to: int) -> Iterator[tuple[int, bytes]]:
    """Yield the bodies after a position, up to another one, inclusive; a few are in memory."""
    while after < up_to:
        found = connection.execute(
            sa.select(bodies.c.position, bodies.c.body)
            .where(bodies.c.position > after, bodies.c.position <= up_to)
            .order_by(bodies.c.position)
            .limit(BODIES_PER_PAGE)
        ).all()
        for position, body in found:
            yield position, bytes(body)
        if len(found) < BODIES_PER_PAGE:
            return
        after = found[-1].position
