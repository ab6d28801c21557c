"""The queues of kinds: each kind's own, and those of its waiting jobs that use resources."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.fairness.queues import SEPARATOR
from domain.language.identifiers import Kind
from projections.inline.line import queues


def names_of_queues(
    connection: Connection, line: sa.ColumnElement[int], kinds: Sequence[Kind], limit: int
) -> list[bytes]:
    """Return the names of at most `limit` queues of the kinds as they are stored.

    `line` is the generation of the line, or an expression for the current one.
    """
    named = [kind.encode() for kind in kinds][:limit]
    rows = connection.execute(
        sa.select(queues.c.kind, queues.c.resources)
        .where(queues.c.generation == line, queues.c.kind.in_(named))
        .limit(limit - len(named))
    )
    separator = SEPARATOR.encode()
    return named + [bytes(kind) + separator + bytes(resources) for kind, resources in rows]
