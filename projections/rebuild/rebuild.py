"""Building projections again from the log, while the service goes on.

A rebuild reserves a generation, folds the log into it in big batches, catches up with the writers,
and makes it current under the head lock by changing one registry row. The rows of the generation
before are then deleted in small steps. No DDL but `CREATE TABLE`: it commits implicitly on MySQL,
and the right to DROP is the right to TRUNCATE the log. Stopped half-way it leaves rows that nobody
reads; the next rebuild removes them. Of two at once the one that was begun later wins, whichever
ends first.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, Protocol, Self

from sqlalchemy.engine import Connection

from domain.decisions.ports import EventLog, Write
from domain.language.errors import LogUnavailable
from domain.language.events import Recorded
from projections.rebuild.fold import GenerationFold
from projections.storage import registry
from projections.storage.generations import InlineProjection, older_generations, remove_rows
from projections.storage.rows import create_all, have_all

EVENTS_PER_PAGE: Final = 4000
READERS: Final = 2  # each waits for the interpreter lock after every piece that it receives
PAGES_AHEAD: Final = 4
EVENTS_UNDER_LOCK_MAX: Final = 1000  # left to fold while every writer waits: some 20 ms
TURNS_MAX: Final = 30  # of about 2 s each


class Access(Protocol):
    """How a rebuild comes to the database."""

    def read(self) -> AbstractContextManager[Connection]:
        """A connection for queries."""

    def write(self) -> AbstractContextManager[Connection]:
        """One transaction."""


Progress = Callable[[int, int], None]  # events folded, events in the log


def rebuild(
    log: EventLog[Connection],
    database: Access,
    projections: Sequence[InlineProjection],
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Build these projections again and make them current; returns how many events were folded."""
    with database.write() as connection:
        for projection in projections:
            create_all(connection, projection.tables)
    with database.write() as connection:
        log.lock_head(connection)
        generations = [registry.reserve(connection, projection) for projection in projections]
        log.set_registry_digest(connection, registry.digest_of(connection))
    building = list(zip(projections, generations, strict=True))
    for projection, generation in building:
        # Left by whoever was handed this number before the registry was lost.
        _remove(database, projection, generation)
    with database.read() as connection:
        total = log.position(connection)
    try:
        current, total = _fill(log, database, building, total, progress)
    except Exception:
        overtaken = _overtaken(database, building)
        if not overtaken:
            raise
        # Their rows were deleted under our hands, and what came of that is not ours to judge.
        for projection, generation in building:
            remove_older(database, projection, generation + 1)
        left = [projection for projection in projections if projection.name not in overtaken]
        return rebuild(log, database, left, progress) if left else total
    progress(total, total)
    for projection, generation in current:
        remove_older(database, projection, generation)
    return total


def _fill(
    log: EventLog[Connection],
    database: Access,
    building: Sequence[tuple[InlineProjection, int]],
    total: int,
    progress: Progress,
) -> tuple[list[tuple[InlineProjection, int]], int]:
    """Fold the whole log, catch up and switch; the generations that are then current."""
    with (
        _Pages(log, database) as pages,
        _Saver(database) as saver,
        database.read() as connection,
    ):
        fold = GenerationFold(building, events_expected=total, settle=saver.settle)
        while total - fold.position > EVENTS_UNDER_LOCK_MAX:
            while total - fold.position > EVENTS_UNDER_LOCK_MAX:
                progress(fold.position, total)
                fold.take(connection, pages.behind(fold.position))
                connection.rollback()  # the next question is about what is stored by then
                if fold.is_save_due:
                    saver.write(fold.take_due_changes())
            saver.write(fold.take_changes())
            saver.settle()
            total = log.position(connection)  # others went on meanwhile
            connection.rollback()
    with _turn(database) as connection:
        total = log.lock_head(connection).position
        while fold.position < total:
            fold.take(connection, log.read(connection, fold.position, EVENTS_PER_PAGE))
        fold.save(connection)
        current = [
            (projection, registry.switch(connection, projection, generation))
            for projection, generation in building
        ]
        log.set_registry_digest(connection, registry.digest_of(connection))
    return current, total


@contextmanager
def _turn(database: Access) -> Iterator[Connection]:
    """One transaction; where a busy writer does not let it begin, it asks again."""
    with ExitStack() as stack:
        for attempt in range(1, TURNS_MAX + 1):
            try:
                connection = stack.enter_context(database.write())
                break
            except LogUnavailable:
                if attempt == TURNS_MAX:
                    raise
        yield connection


def _overtaken(database: Access, building: Sequence[tuple[InlineProjection, int]]) -> set[str]:
    """Those of which another rebuild, begun later, has made its generation the current one."""
    with database.read() as connection:
        registered = registry.read(connection)
    return {
        projection.name
        for projection, generation in building
        if registered[projection.name].generation > generation
    }


class _Pages:
    """Reads the log some pages ahead, so that the database works while we fold."""

    def __init__(self, log: EventLog[Connection], database: Access) -> None:
        self._log = log
        self._database = database
        self._reader = ThreadPoolExecutor(READERS, thread_name_prefix="fairlog-rebuild")
        self._ahead: deque[Future[Sequence[Recorded]]] = deque()
        self._position = 0  # where the first of them begins

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def behind(self, position: int) -> Sequence[Recorded]:
        """The events behind a position; positions have no gaps, so the pages ahead are known."""
        if position != self._position:  # a page was not full, at what was then the end of the log
            self._ahead.clear()
        while len(self._ahead) < PAGES_AHEAD:
            following = position + len(self._ahead) * EVENTS_PER_PAGE
            self._ahead.append(self._reader.submit(self._read, following))
        events = self._ahead.popleft().result()
        self._position = position + EVENTS_PER_PAGE
        return events

    def _read(self, position: int) -> Sequence[Recorded]:
        with self._database.read() as connection:
            return self._log.read(connection, position, EVENTS_PER_PAGE)


class _Saver:
    """Writes in a thread of its own, one transaction after the other, so that we fold meanwhile."""

    def __init__(self, database: Access) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fairlog-rebuild-save")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, writes: Sequence[Write[Connection]]) -> None:
        """Waits for those before: what is in memory is bounded, and an error ends the rebuild."""
        self.settle()
        self._pending = self._thread.submit(self._write, writes)

    def settle(self) -> None:
        """Return when all is committed; raises what went wrong."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, writes: Sequence[Write[Connection]]) -> None:
        for write in writes:
            with _turn(self._database) as connection:
                write(connection)


def remove_older(database: Access, projection: InlineProjection, generation: int) -> None:
    """Delete every generation before this one, a little at a time."""
    with database.read() as connection:
        left = older_generations(connection, projection, generation)
    for older in left:
        _remove(database, projection, older)


def _remove(database: Access, projection: InlineProjection, generation: int) -> None:
    remove_rows(lambda: _turn(database), projection, generation)


def outdated(
    connection: Connection, projections: Sequence[InlineProjection]
) -> list[InlineProjection]:
    """Those that are missing, were never built, or were built by an older release."""
    registered = registry.read(connection)
    registry.check_versions(registered, projections)
    return [
        projection
        for projection in projections
        if (found := registered.get(projection.name)) is None
        or not found.is_built
        or found.version != projection.version
        or not have_all(connection, projection.tables)
    ]
