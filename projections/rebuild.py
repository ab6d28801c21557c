"""Building projections again from the log, while the service goes on.

A rebuild reserves a generation, folds the log into it in big batches, catches up with the writers,
and makes it current under the head lock by changing one registry row. The rows of the generation
before are then deleted in small steps. No DDL but `CREATE TABLE`: it commits implicitly on MySQL,
and the right to DROP is the right to TRUNCATE the log. Stopped half-way it leaves rows that nobody
reads; the next rebuild removes them.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from sqlalchemy.engine import Connection

from domain.ports import EventLog, Projection
from domain.world import Needs, World
from projections import registry

EVENTS_A_BATCH: Final = 4000
EVENTS_UNDER_LOCK_MAX: Final = 1000  # left to fold while every writer waits: some 20 ms
ROWS_A_DELETE: Final = 2000

Transaction = Callable[[], AbstractContextManager[Connection]]
Progress = Callable[[int, int], None]  # events folded, events in the log


def rebuild(
    log: EventLog[Connection],
    transaction: Transaction,
    projections: Sequence[Projection[Connection]],
    progress: Progress = lambda done, total: None,
) -> int:
    """Build these projections again and make them current; returns how many events were folded."""
    with transaction() as connection:
        for projection in projections:
            projection.create_tables(connection)
    with transaction() as connection:
        log.lock_head(connection)
        generations = [registry.reserve(connection, projection) for projection in projections]
    building = list(zip(projections, generations, strict=True))
    position = 0
    while True:
        with transaction() as connection:
            total = log.position(connection)
        progress(position, total)
        if total - position <= EVENTS_UNDER_LOCK_MAX:
            break
        with transaction() as connection:
            position = _fold_batch(log, connection, building, position)
    with transaction() as connection:
        total = log.lock_head(connection).position
        while position < total:
            position = _fold_batch(log, connection, building, position)
        for projection, generation in building:
            registry.switch(connection, projection, generation)
        log.raise_epoch(connection)
    progress(position, total)
    for projection, generation in building:
        remove_older(transaction, projection, generation)
    return position


def _fold_batch(
    log: EventLog[Connection],
    connection: Connection,
    building: Iterable[tuple[Projection[Connection], int]],
    after: int,
) -> int:
    events = log.read(connection, after, EVENTS_A_BATCH)
    needs = Needs()
    needs.add_events(events)
    world = World()
    for projection, generation in building:
        projection.load(connection, generation, needs, world)
    for recorded in events:
        world.evolve(recorded)
    for projection, generation in building:
        projection.save(connection, generation, world)
    return events[-1].position


def remove_older(
    transaction: Transaction, projection: Projection[Connection], generation: int
) -> None:
    """Delete every generation before this one, a little at a time."""
    for older in range(generation - 1, 0, -1):
        removed = None
        while removed != 0:
            with transaction() as connection:
                removed = projection.remove(connection, older, ROWS_A_DELETE)


def outdated(
    connection: Connection, projections: Sequence[Projection[Connection]]
) -> list[Projection[Connection]]:
    """Those that are missing, were never built, or were built by an older release."""
    registered = registry.read(connection)
    registry.check_versions(registered, projections)
    return [
        projection
        for projection in projections
        if (found := registered.get(projection.name)) is None
        or not found.is_built
        or found.version != projection.version
        or not projection.has_tables(connection)
    ]
