"""The rows of the inline projections, to be compared with those of a rebuild."""

from typing import Any, Final

import sqlalchemy as sa

from entrypoints.service.fairlog import Fairlog
from projections.inline import callbacks, jobs, line, parents, schedules, windows
from projections.storage import registry
from tests.support.core import saved_rows

PROJECTIONS: Final = (
    jobs.JobsProjection,
    line.LineProjection,
    windows.WindowsProjection,
    parents.ParentsProjection,
    callbacks.CallbacksProjection,
    schedules.SchedulesProjection,
)

Rows = dict[str, list[tuple[Any, ...]]]


def rows_of(fairlog: Fairlog) -> Rows:
    """Every row of the current generation, by table; without the generation."""
    found: Rows = {}
    with saved_rows(fairlog) as connection:
        for projection in PROJECTIONS:
            for table in projection.tables:
                current = registry.current(projection.name)
                rows = connection.execute(sa.select(table).where(table.c.generation == current))
                found[table.name] = sorted((tuple(row)[1:] for row in rows), key=repr)
    return found
