"""Histories of single jobs, and of single types of event, read from the log within positions."""

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.event_pages import RECORDED, recorded
from adapters.log.tables import events
from domain.jobs.history import CHANGES
from domain.language.events import EVENT_TYPES, LeasesExtended, Recorded
from domain.language.identifiers import JobId

JOBS_PER_STATEMENT: Final = 500
POSITIONS_PER_STATEMENT: Final = 20_000
EVENTS_PER_PAGE: Final = 200
# The types of events that change a job, and that of all workers' heartbeats.
CHANGE_NAMES: Final = [name for name, cls in EVENT_TYPES.items() if cls in CHANGES]
HEARTBEAT: Final = next(name for name, cls in EVENT_TYPES.items() if cls is LeasesExtended)


def changes_of(
    connection: Connection, job_ids: Sequence[JobId], up_to: int, after: int = 0
) -> Iterator[Recorded]:
    """Yield the events after a position that changed these jobs; for each job they are in log
    order.
    """
    for start in range(0, len(job_ids), JOBS_PER_STATEMENT):
        yield from recorded(
            connection,
            sa.select(*RECORDED)
            .where(
                events.c.job_id.in_(job_ids[start : start + JOBS_PER_STATEMENT]),
                events.c.position > after,
                events.c.position <= up_to,
                events.c.type.in_(CHANGE_NAMES),
            )
            .order_by(events.c.position),
        )


def heartbeats(connection: Connection, after: int, up_to: int) -> Iterator[Recorded]:
    """Yield all workers' heartbeats, newest first, with one page in memory."""
    return newest_first(connection, HEARTBEAT, after, up_to)


def newest_first(
    connection: Connection, type_name: str, after: int, up_to: int, *, is_frequent: bool = False
) -> Iterator[Recorded]:
    """Yield events of one type after a position, newest first, with one page in memory.

    A page is one range of the index on the type, which ends with the position. SQLite does not use
    it so, and would sort all events of the type: a frequent type is searched in the log itself.
    """
    type_of_event: sa.ColumnElement[str] = events.c.type
    if is_frequent and connection.dialect.name == "sqlite":
        type_of_event = events.c.type.concat("")  # an expression that no index has
    while up_to > after:
        page = recorded(
            connection,
            sa.select(*RECORDED)
            .where(
                type_of_event == type_name,
                events.c.position > after,
                events.c.position <= up_to,
            )
            .order_by(events.c.position.desc())
            .limit(EVENTS_PER_PAGE),
        )
        yield from page
        up_to = page[-1].position - 1 if len(page) == EVENTS_PER_PAGE else after


def of_types(
    connection: Connection, types: Sequence[str], after: int, up_to: int
) -> Iterator[Recorded]:
    """Yield events of these types after a position, in log order.

    It reads ranges of positions, since an index on the type gives several types in no order.
    """
    for start in range(after, up_to, POSITIONS_PER_STATEMENT):
        yield from recorded(
            connection,
            sa.select(*RECORDED)
            .where(
                events.c.position > start,
                events.c.position <= min(up_to, start + POSITIONS_PER_STATEMENT),
                events.c.type.in_(types),
            )
            .order_by(events.c.position),
        )
