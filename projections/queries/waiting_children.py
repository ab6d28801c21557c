"""The jobs that wait for the end of another one."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.language.identifiers import JobId
from projections.inline.parents import parents
from projections.storage import registry


def waiting_children(connection: Connection, parent: JobId, limit: int) -> list[JobId]:
    """Return the first jobs that wait to be told the end of a job, oldest first."""
    rows = connection.execute(
        sa.select(parents.c.child)
        .where(parents.c.generation == registry.current("parents"), parents.c.parent == parent)
        .order_by(parents.c.child)
        .limit(limit)
    )
    return [JobId(child) for (child,) in rows]
