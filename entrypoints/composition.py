"""The composition root: the one place that wires the parts together.

`compose` opens nothing and `prepare` brings the database up to date; an entrypoint then starts the
writer.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from adapters.log.lost_events import lost_events
from adapters.log.outbox import outbox, outbox_rejected
from adapters.log.schema import NoTriggers, migrate, protect_events
from adapters.log.schema_check import create_missing_indexes
from adapters.log.stored_log import SqlStoredLog
from adapters.log.tables import log_snapshot, log_tiles, metadata
from adapters.servers.dashboard_sessions import dashboard_sessions
from adapters.servers.live_servers import live_servers
from adapters.servers.server_lock import ServerLock
from adapters.servers.worker_polls import worker_polls
from adapters.settings import Settings
from adapters.supervision import Supervisor
from adapters.writer.command_queue import CommandQueue
from adapters.writer.write_path import WritePath
from adapters.writer.writer import Writer
from adapters.writer.writer_frames import WriterHello
from adapters.writer.writer_process import WriterProcess
from domain.decisions.ports import Clock, Head
from domain.decisions.write_model import RequiredRows
from domain.language.errors import FairlogError
from domain.language.events import Recorded
from domain.language.limits import RetryPolicy, resolved_retry
from domain.language.policy import Policy
from domain.log.stored_log import Leaf
from entrypoints.feeds.projector_runner import ProjectorRunner
from entrypoints.feeds.recent_events import RecentEvents
from entrypoints.runtime.interpreter import tuned_for_one_pass
from entrypoints.service.fairlog import Fairlog
from fairlog_client.processes.child import program
from projections.activity.projection import ActivityProjection
from projections.following.async_projector import AsyncProjector
from projections.following.checkpoints import checkpoints
from projections.following.merkle import MerkleProjection
from projections.following.snapshots import SnapshotsProjection
from projections.inline.empty_claims import empty_claims
from projections.inline.live import LiveProjections, inline_projections
from projections.rebuild.rebuild import Progress, SaveOthers, outdated, rebuild
from projections.storage import registry
from projections.storage.generations import InlineProjection
from projections.storage.rows import create_all
from projections.verify import bookkeeping
from projections.verify.bookkeeping import REGISTRY

# Tables that may be dropped while no server runs, and that nothing is built into from the log.
_TABLES_OUTSIDE_LOG: Final = (
    live_servers,
    lost_events,
    dashboard_sessions,
    worker_polls,
    empty_claims,
    outbox,
    outbox_rejected,
)

# Tables of the log that are empty until a part of it is archived: until then they may be dropped.
_LEFT_BY_ARCHIVES: Final = (log_snapshot, log_tiles)

_log = structlog.get_logger()


def compose(
    settings: Settings, *, clock: Clock | None = None, queue: CommandQueue | None = None
) -> Fairlog:
    """Wire a service whose writer is a thread of this process.

    `clock` replaces the database's clock, for tests; `queue` is the writer's queue of commands,
    by default a new one.
    """
    database = Database(settings.database_url)
    log = SqlEventLog(database, clock)
    projections = LiveProjections(inline_projections(), log)
    supervisor = Supervisor()
    writer = Writer(
        database, log, projections, policy_of(settings), queue, supervisor.part("writes")
    )
    events, leaves = RecentEvents[Recorded](), RecentEvents[Leaf]()

    def keep_recent(recorded: Sequence[Recorded], linked: Sequence[Leaf], last_hash: bytes) -> None:
        events.add(recorded, last_hash)
        leaves.add(linked, last_hash)

    writer.subscribe(keep_recent)
    fairlog = _wired(settings, database, log, writer, supervisor, events, leaves)
    writer.subscribe(fairlog.projector_runner.published)
    return fairlog


def compose_server(settings: Settings, *, logs_json: bool) -> Fairlog:
    """Wire a service whose writer and asynchronous projectors run in a child process.

    With `logs_json`, that process logs JSON lines.
    """
    database = Database(settings.database_url)
    log = SqlEventLog(database)
    supervisor = Supervisor()
    writer = WriterProcess(
        program("entrypoints.processes.writer_main"), WriterHello(settings, logs_json), supervisor
    )
    if database.hosts is not None:  # what it has written is read where it was written
        writer.host_changed = partial(database.hosts.use, why="The writer uses it.")
    return _wired(settings, database, log, writer, supervisor, RecentEvents(1), RecentEvents(1))


def _wired(
    settings: Settings,
    database: Database,
    log: SqlEventLog,
    writer: WritePath,
    supervisor: Supervisor,
    recent_events: RecentEvents[Recorded],
    recent_leaves: RecentEvents[Leaf],
) -> Fairlog:
    read = recent_events.or_read(log.read, log.hash_at)
    leaves = recent_leaves.or_read(SqlStoredLog(is_sqlite=database.is_sqlite).leaves, log.hash_at)
    access = (log, database.read, database.write)
    projectors: list[AsyncProjector[Any]] = [
        AsyncProjector(ActivityProjection(), read, *access),
        AsyncProjector(SnapshotsProjection(log.read), read, *access),
        AsyncProjector(MerkleProjection(), leaves, *access),
    ]
    runner = ProjectorRunner(projectors, supervisor, database.shrink_journal)
    return Fairlog(
        database,
        log,
        writer,
        policy_of(settings),
        runner,
        supervisor,
        requires_keys=settings.require_keys,
        size_limit_bytes=settings.size_limit_bytes or None,
    )


def policy_of(settings: Settings) -> Policy:
    """Return the settings that decisions depend on."""
    return Policy(
        window_seconds=settings.window_seconds,
        user_limit=settings.user_limit,
        global_limit=settings.global_limit,
        lease_seconds=settings.lease_seconds,
        idempotency_seconds=settings.idempotency_seconds,
        deduplicate=settings.deduplicate,
        max_attempts=settings.max_attempts,
        timeout_seconds=settings.timeout_seconds or None,
        retry=resolved_retry(
            RetryPolicy(
                backoff=settings.retry_backoff,
                base_seconds=settings.retry_base_seconds,
                factor=settings.retry_factor,
                maximum_seconds=settings.retry_maximum_seconds,
                jitter=settings.retry_jitter,
                never=tuple(filter(None, settings.retry_never.split(","))),
            )
        ),
    )


def prepare(fairlog: Fairlog, progress: Progress = lambda _done, _total: None) -> list[str]:
    """Create or upgrade the schema, and build the projections that are missing or outdated.

    Any number of servers may do it at once. `progress` is called with the number of events folded
    and of all events. Returns the names of the inline projections that were built; asynchronous
    ones catch up while the service runs.
    """
    migrate(fairlog.database)
    try:
        protect_events(fairlog.database)
    except NoTriggers as error:
        _log.warning("events_unprotected", reason=str(error))
    with fairlog.database.write() as connection:
        create_all(connection, [registry.registry, *_LEFT_BY_ARCHIVES, *_TABLES_OUTSIDE_LOG])
    with fairlog.database.read() as connection:
        stale = outdated(connection, inline_projections())
        if stale and fairlog.log.cut(connection).position:
            stale = list(inline_projections())  # see `rebuild`
    if stale:
        with tuned_for_one_pass():
            rebuild(fairlog.log, fairlog.database, stale, progress, _saving_others(fairlog.log))
    for projector in fairlog.projector_runner.projectors:
        projector.prepare()
    store_registry_digest(fairlog)
    return [projection.name for projection in stale]


def _saving_others(log: SqlEventLog) -> SaveOthers:
    def save(connection: Connection, head: Head, built: Sequence[InlineProjection]) -> None:
        names = {projection.name for projection in built}
        others = [one for one in inline_projections() if one.name not in names]
        if not others:
            return  # else the events behind the rows would be folded once more, under the lock
        live = LiveProjections(others, log)
        live.refresh(connection)
        live.save(connection, live.load(connection, head, RequiredRows()))

    return save


def store_registry_digest(fairlog: Fairlog) -> None:
    """Store the digest of the registry in the head row.

    It differs if a release before 0.2 wrote the row, or if either was changed by hand.
    """
    with fairlog.database.write() as connection:
        fairlog.log.lock_head(connection)
        fairlog.log.set_registry_digest(connection, registry.digest_of(connection))


def mend_bookkeeping(fairlog: Fairlog) -> None:
    """Correct the registry, delete checkpoints that no release leaves, and store the digest."""
    with fairlog.database.write() as connection:
        fairlog.log.lock_head(connection)
        bookkeeping.mend(connection)
        fairlog.log.set_registry_digest(connection, registry.digest_of(connection))


def projection_tables(fairlog: Fairlog) -> dict[str, Sequence[sa.Table]]:
    """Return the tables that `prepare` creates in addition to the log's own, by projection.

    Tables that belong to no single projection have the key `REGISTRY`.
    """
    asynchronous = [one.projection for one in fairlog.projector_runner.projectors]
    others = (registry.registry, checkpoints, *_TABLES_OUTSIDE_LOG)
    return {REGISTRY: others} | {
        projection.name: projection.tables for projection in (*inline_projections(), *asynchronous)
    }


def restore_indexes(fairlog: Fairlog) -> None:
    """Create the indexes that were dropped. The account needs the privilege to create indexes."""
    tables = [*metadata.sorted_tables, *chain(*projection_tables(fairlog).values())]
    create_missing_indexes(fairlog.database, tables)


def rebuild_projections(
    fairlog: Fairlog, names: Sequence[str], progress: Progress = lambda _done, _total: None
) -> int:
    """Build projections again from the log; all of them if `names` is empty.

    Returns the number of events folded. Raises `FairlogError` for an unknown name.
    """
    inline = {projection.name: projection for projection in inline_projections()}
    projectors = {one.projection.name: one for one in fairlog.projector_runner.projectors}
    wanted = _known_names(names, [*inline, *projectors])
    folded = 0
    with fairlog.database.read() as connection:
        is_cut = fairlog.log.cut(connection).position > 0
    with tuned_for_one_pass():
        chosen = [inline[name] for name in wanted if name in inline]
        if chosen and is_cut:
            chosen = list(inline.values())
        if chosen:
            folded = rebuild(
                fairlog.log, fairlog.database, chosen, progress, _saving_others(fairlog.log)
            )
        for name in wanted:
            if name in projectors:
                folded = projectors[name].rebuild(progress)
    return folded


def _known_names(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return `names` in the order of `known`; all of `known` if `names` is empty.

    Raises `FairlogError` for a name that is not known.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise FairlogError(
            f"There is no projection {unknown[0]!r}; the names are {', '.join(sorted(known))}."
        )
    return [name for name in known if not names or name in names]


def server_lock(fairlog: Fairlog) -> ServerLock | None:
    """Return the lock that proves that no other server uses a SQLite file; None without a file."""
    file = fairlog.database.url.database
    # The lock is next to the file itself, even if the address names a link to it.
    return ServerLock(Path(file).resolve()) if fairlog.database.is_sqlite and file else None
