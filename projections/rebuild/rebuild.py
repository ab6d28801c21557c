"""Rebuild inline projections from the log while the service runs.

A rebuild reserves a generation, folds the log into it in big batches, catches up with the writers,
and makes it current under the head lock by changing one registry row. The rows of earlier
generations are then deleted in small transactions. The only DDL is `CREATE TABLE`: DDL commits
implicitly on MySQL, and the right to DROP a table is the right to TRUNCATE the log. A rebuild that
is stopped leaves rows that nobody reads; the next rebuild removes them. Of two concurrent rebuilds
the one that started later wins, whichever ends first. Where the log was cut by an archive, the
rebuild begins with the snapshot at the cut.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, Protocol, Self

from sqlalchemy.engine import Connection

from domain.decisions.ports import EventLog, Head, Write
from domain.language.errors import LogUnavailable
from domain.language.events import Recorded
from projections.rebuild.fold import GenerationFold
from projections.storage import registry
from projections.storage.generations import InlineProjection, older_generations, remove_rows
from projections.storage.rows import create_all, have_all
from projections.storage.snapshot import restore, unpacked

EVENTS_PER_PAGE: Final = 4000
READERS: Final = 2  # threads; each waits for the interpreter lock after every read of its socket
PAGES_AHEAD: Final = 4
EVENTS_UNDER_LOCK_MAX: Final = 1000  # folded under the head lock, while writers wait: some 20 ms
BEGINS_MAX: Final = 30  # attempts to begin a transaction, of about 2 s each


class DatabaseAccess(Protocol):
    """The database as a rebuild needs it."""

    def read(self) -> AbstractContextManager[Connection]:
        """Return a connection for queries."""

    def write(self) -> AbstractContextManager[Connection]:
        """Return a connection in a transaction, which is committed at the end."""


Progress = Callable[[int, int], None]  # events folded, events in the log
# Saves the rows of the inline projections that are not built; called with the head lock.
SaveOthers = Callable[[Connection, Head, Sequence[InlineProjection]], None]


def rebuild(
    log: EventLog[Connection],
    database: DatabaseAccess,
    projections: Sequence[InlineProjection],
    progress: Progress = lambda _done, _total: None,
    save_others: SaveOthers = lambda _connection, _head, _built: None,
) -> int:
    """Build new generations of projections, make them current and return the number of events.

    `save_others` saves the rows of the other inline projections, since the rows of all stand at one
    position. Of an archived log, all inline projections have to be built together. Raises
    `LogUnavailable` where the database stays busy or away, `LogTooNew`, and `EventsArchived` if the
    log was cut meanwhile.
    """
    with database.write() as connection:
        for projection in projections:
            create_all(connection, projection.tables)
    with database.write() as connection:
        log.lock_head(connection)
        generations = [registry.reserve(connection, projection) for projection in projections]
        log.set_registry_digest(connection, registry.digest_of(connection))
    building = list(zip(projections, generations, strict=True))
    for projection, generation in building:
        # Rows of an earlier rebuild with the same number, reserved before the registry was lost.
        _remove(database, projection, generation)
    with database.read() as connection:
        total = log.position(connection)
    try:
        total = _fill(log, database, building, total, progress, save_others)
    except Exception:
        with database.read() as connection:
            superseded = _superseded(connection, building)
        if not superseded:
            raise
        # The later rebuild deletes rows of this one, so that any error may come of that.
        for projection, generation in building:
            _remove(database, projection, generation)
        rest = [projection for projection in projections if projection.name not in superseded]
        return rebuild(log, database, rest, progress, save_others) if rest else total
    progress(total, total)
    for projection, generation in building:
        remove_older(database, projection, generation)
    return total


class _Superseded(Exception):
    """A rebuild that started later has ended."""


def _fill(
    log: EventLog[Connection],
    database: DatabaseAccess,
    building: Sequence[tuple[InlineProjection, int]],
    total: int,
    progress: Progress,
    save_others: SaveOthers,
) -> int:
    """Fold the whole log, catch up, switch, and return the number of events folded.

    Raises `_Superseded`, and any error if another rebuild deletes the rows meanwhile.
    """
    with database.read() as connection:
        cut = log.cut(connection)
    with (
        _ReadAhead(log, database) as pages,
        _BackgroundWriter(database) as writer,
        database.read() as connection,
    ):
        fold = GenerationFold(building, total, flush=writer.flush, after=cut.position)
        if cut.position:
            restore(
                unpacked(log.snapshot_parts(connection, cut.snapshot)),
                building,
                lambda write: writer.write([write]),
                fold.know,
            )
            writer.flush()
            connection.rollback()
        while total - fold.position > EVENTS_UNDER_LOCK_MAX:
            while total - fold.position > EVENTS_UNDER_LOCK_MAX:
                progress(fold.position, total)
                fold.take(connection, pages.after(fold.position))
                connection.rollback()  # the next query has to see what is stored by then
                if fold.is_save_due:
                    writer.write(fold.take_due_changes())
            writer.write(fold.take_changes())
            writer.flush()
            total = log.position(connection)  # other processes have written meanwhile
            connection.rollback()
    with _transaction(database) as connection:
        head = log.lock_head(connection)
        # The rows of the later rebuild are behind the head, and must not be said to stand at it.
        if _superseded(connection, building):
            raise _Superseded
        total = head.position
        while fold.position < total:
            fold.take(connection, log.read(connection, fold.position, EVENTS_PER_PAGE))
        fold.save(connection)
        save_others(connection, head, [projection for projection, _ in building])
        log.set_saved(connection, total)
        for projection, generation in building:
            registry.switch(connection, projection, generation)
        log.set_registry_digest(connection, registry.digest_of(connection))
    return total


@contextmanager
def _transaction(database: DatabaseAccess) -> Iterator[Connection]:
    """Begin a transaction; retry while a busy writer keeps the lock."""
    with ExitStack() as stack:
        for attempt in range(1, BEGINS_MAX + 1):
            try:
                connection = stack.enter_context(database.write())
                break
            except LogUnavailable:
                if attempt == BEGINS_MAX:
                    raise
        yield connection


def _superseded(
    connection: Connection, building: Sequence[tuple[InlineProjection, int]]
) -> set[str]:
    """Return the names of projections that a rebuild which started later has made current."""
    registered = registry.read(connection)
    return {
        projection.name
        for projection, generation in building
        if registered[projection.name].generation > generation
    }


class _ReadAhead:
    """Reads pages of the log ahead, so that the database works while this process folds."""

    def __init__(self, log: EventLog[Connection], database: DatabaseAccess) -> None:
        self._log = log
        self._database = database
        self._reader = ThreadPoolExecutor(READERS, thread_name_prefix="fairlog-rebuild")
        self._ahead: deque[Future[Sequence[Recorded]]] = deque()
        self._position = 0  # that the first page in `_ahead` follows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def after(self, position: int) -> Sequence[Recorded]:
        """Return the events after a position; without gaps, the pages ahead are known."""
        if position != self._position:  # the page before was not full: the log ended there
            self._ahead.clear()
        while len(self._ahead) < PAGES_AHEAD:
            start = position + len(self._ahead) * EVENTS_PER_PAGE
            self._ahead.append(self._reader.submit(self._read, start))
        events = self._ahead.popleft().result()
        self._position = position + EVENTS_PER_PAGE
        return events

    def _read(self, position: int) -> Sequence[Recorded]:
        with self._database.read() as connection:
            return self._log.read(connection, position, EVENTS_PER_PAGE)


class _BackgroundWriter:
    """Runs writes in a thread, one transaction after the other, while this process folds."""

    def __init__(self, database: DatabaseAccess) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fairlog-rebuild-save")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, writes: Sequence[Write[Connection]]) -> None:
        """Start writes. Waits for the ones before, which bounds memory, and raises their error."""
        self.flush()
        self._pending = self._thread.submit(self._write, writes)

    def flush(self) -> None:
        """Wait until all is committed; raise the error if a write failed."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, writes: Sequence[Write[Connection]]) -> None:
        for write in writes:
            with _transaction(self._database) as connection:
                write(connection)


def remove_older(database: DatabaseAccess, projection: InlineProjection, generation: int) -> None:
    """Delete every generation below this one, in small transactions."""
    with database.read() as connection:
        older = older_generations(connection, projection, generation)
    for one in older:
        _remove(database, projection, one)


def _remove(database: DatabaseAccess, projection: InlineProjection, generation: int) -> None:
    remove_rows(lambda: _transaction(database), projection, generation)


def outdated(
    connection: Connection, projections: Sequence[InlineProjection]
) -> list[InlineProjection]:
    """Return projections without tables, never built, or built by an older release.

    Raises `LogTooNew`.
    """
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
