"""Connections to the database, set so that SQLite, MySQL and MariaDB behave alike.

Every driver error becomes one of ours here (see `adapters.database.faults`).
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from adapters.database import mysql_pipeline
from adapters.database.faults import explained, is_for_everybody
from adapters.database.hosts import Hosts
from adapters.database.sqlite_file import JOURNAL_BYTES_MAX, SqliteFile, journal_bytes
from adapters.database_url import split_hosts
from domain.language.errors import FairlogError, LogUnavailable
from fairlog_client.processes.forks import keep_from_children

# A caller has an error within 5 s when the database is away: one statement hangs, then one connect.
CONNECT_SECONDS_MAX: Final = 1
WRITE_STATEMENT_SECONDS_MAX: Final = 3
LOCK_WAIT_SECONDS_MAX: Final = 2
# SQLite makes those who wait poll for the lock, and a busy writer leaves few gaps.
PATIENT_LOCK_WAIT_SECONDS_MAX: Final = 20
READ_STATEMENT_SECONDS_MAX: Final = 60
# The server closes a writing connection that is idle for so long, and releases the locks of a
# process that was frozen (SIGSTOP, a paused machine). Else other servers could not write meanwhile.
WRITER_IDLE_SECONDS_MAX: Final = 10
# How often a connection for reading is checked, before it is used, for a read-only server: after a
# switch-over it would go on returning the data of the old primary.
READ_ONLY_CHECK_SECONDS: Final = 2.0
DROP_READERS_SECONDS_MIN: Final = 1.0


class Database:
    """One database, with one engine for the writer and one for reading.

    Nothing is opened before the first connection is requested. If `url` names several hosts, both
    engines use the same one (see `Hosts`).
    """

    def __init__(self, url: str) -> None:
        urls = [make_url(one) for one in split_hosts(url)]
        self.text = url  # as it was given, with its password
        self.url: URL = urls[0]
        self.hosts = Hosts(urls, self._drop_connections) if len(urls) > 1 else None
        self.is_sqlite: bool = self.url.get_backend_name() == "sqlite"
        self._file = SqliteFile(self.url.database or "") if self.is_sqlite else None
        self._connections: WeakSet[mysql_pipeline.PipelinedConnection] = WeakSet()
        keep_from_children(self)
        self._writing = self._engine(WRITE_STATEMENT_SECONDS_MAX, begin="BEGIN IMMEDIATE")
        self._reading = self._engine(READ_STATEMENT_SECONDS_MAX, begin="BEGIN")
        self._readers_dropped = -DROP_READERS_SECONDS_MIN  # time.monotonic()
        self._patient_writing = self._writing
        if self.is_sqlite:
            self._patient_writing = self._engine(
                WRITE_STATEMENT_SECONDS_MAX,
                begin="BEGIN IMMEDIATE",
                lock_wait_seconds=PATIENT_LOCK_WAIT_SECONDS_MAX,
            )

    def descriptors(self) -> Iterable[int]:
        return [connection.fileno() for connection in list(self._connections)]

    @property
    def dialect(self) -> sa.Dialect:
        return self._reading.dialect

    @property
    def engine(self) -> Engine:
        """The engine for reading; tests also observe its statements."""
        return self._reading

    @property
    def writing_engine(self) -> Engine:
        return self._writing

    def connect_writer(self) -> Connection:
        """Return a connection whose transactions take the write lock at once and time out early."""
        return connect(self._writing)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection for queries.

        Raises `LogUnavailable` for any error of the database: no query of ours can be wrong because
        of what a user sent.
        """
        with translated(is_read=True), _used(connect(self._reading)) as connection:
            yield connection

    @contextmanager
    def write(self, *, is_patient: bool = True) -> Iterator[Connection]:
        """Run one transaction that is not the writer's, as for a migration or a rebuild.

        If it is not patient, it waits for a lock no longer than the writer does.
        """
        engine = self._patient_writing if is_patient else self._writing
        with translated(), _used(connect(engine)) as connection, connection.begin():
            yield connection

    @property
    def is_new(self) -> bool:
        """True for SQLite while its file does not exist."""
        return self._file is not None and self._file.is_new

    def check_place(self) -> None:
        """Check that SQLite's file can be where it is to be. Raises `FairlogError`."""
        if self._file is not None:
            self._file.check_place()

    def create_file(self) -> None:
        """Create SQLite's file if it does not exist: connecting never creates it."""
        if self._file is not None:
            self._file.create()

    def check_in_place(self, connection: Connection) -> None:
        """Check that SQLite's open files are the ones at their paths.

        Raises `LogFileReplaced`. Keep the connection then, see `SqliteFile`.
        """
        if self._file is not None:
            self._file.check_in_place(connection)

    def drop_readers(self, *, leaves_host: bool = False) -> None:
        """Close the connections for reading, and those in use when they are returned: their server
        may be behind, or no longer be the primary. With `leaves_host`, use the next one of several
        hosts.
        """
        now = time.monotonic()
        if now - self._readers_dropped < DROP_READERS_SECONDS_MIN:
            return  # they are new
        self._readers_dropped = now
        if leaves_host and self.hosts is not None:
            self.hosts.leave()
        self._reading.dispose()

    def _drop_connections(self) -> None:
        """Close all connections that are not in use: they lead to another host."""
        for engine in (self._reading, self._writing, self._patient_writing):
            engine.dispose()

    def overwrite_deleted(self) -> None:
        """Remove deleted data from SQLite's write-ahead log too, as far as readers allow.

        A server's own logs (binary log, redo log, backups) are for its operator to purge.
        """
        if self.is_sqlite:
            with translated(), _used(connect(self._reading)) as connection:
                connection.rollback()  # a checkpoint is impossible in a transaction
                driver = connection.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def shrink_journal(self) -> None:
        """Free the disk space of SQLite's write-ahead log, which grows while a reader or a large
        transaction keeps SQLite from reusing it. Never waits: if one still does, a later call may
        succeed.
        """
        if self._file is None or journal_bytes(self._file.path) <= JOURNAL_BYTES_MAX:
            return
        with translated(), _used(connect(self._reading)) as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.execute("PRAGMA busy_timeout = 0").fetchall()
            driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # the long part
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        self._patient_writing.dispose()
        self._writing.dispose()
        self._reading.dispose()

    def _engine(
        self, statement_seconds: int, *, begin: str, lock_wait_seconds: int | None = None
    ) -> Engine:
        if lock_wait_seconds is None:
            lock_wait_seconds = LOCK_WAIT_SECONDS_MAX
        if self._file is not None:
            file = self._file
            engine = sa.create_engine(
                self.url,
                poolclass=NullPool,
                hide_parameters=True,
                connect_args={"check_same_thread": False},
            )
            event.listen(engine, "do_connect", lambda _, __, ___, options: file.connect(**options))
            event.listen(engine, "connect", lambda one, _: _set_up_sqlite(one, lock_wait_seconds))
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
            return engine
        is_reading = begin == "BEGIN"
        engine = sa.create_engine(
            self.url,
            # Each query of a READ COMMITTED transaction has a snapshot of its own, so one without a
            # transaction sees the same, and saves the statement that ends it.
            isolation_level="AUTOCOMMIT" if is_reading else "READ COMMITTED",
            hide_parameters=True,  # users' data must not appear in logs
            pool_size=8,
            max_overflow=24,
            pool_pre_ping=True,
            pool_use_lifo=True,  # an idle server uses few connections, which it has to check
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,  # closing a connection of SQLAlchemy's ends its transaction
            pool_timeout=CONNECT_SECONDS_MAX + 2,
            connect_args={
                "charset": "utf8mb4",
                "connect_timeout": CONNECT_SECONDS_MAX,
                "read_timeout": statement_seconds,
                "write_timeout": statement_seconds,
                "init_command": (
                    "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES',"
                    f" innodb_lock_wait_timeout = {lock_wait_seconds},"
                    " group_concat_max_len = 16777216,"  # see SqlEventLog.read; MySQL has 1024
                    # A server's own values could drop rows silently, or refuse statements.
                    " sql_select_limit = 18446744073709551615, sql_safe_updates = 0"
                    + ("" if is_reading else f", wait_timeout = {WRITER_IDLE_SECONDS_MAX}")
                ),
            },
        )
        event.listen(engine, "do_connect", self._connect_mysql)
        if is_reading:
            event.listen(engine, "connect", _set_up_reader)
            event.listen(engine, "checkout", _drop_if_read_only)
        return engine

    def _connect_mysql(
        self, _dialect: object, _record: object, _arguments: object, options: dict[str, Any]
    ) -> mysql_pipeline.PipelinedConnection:
        for name in ("password", "passwd"):  # in the URL's authority or its query
            if isinstance(options.get(name), str):
                # UTF-8, as the server stores it; PyMySQL would use latin-1, or fail.
                options[name] = options[name].encode()
        if self.hosts is None:
            return self._open(options)
        return self.hosts.connect(
            lambda host, port: self._open(options | {"host": host, "port": port})
        )

    def _open(self, options: dict[str, Any]) -> mysql_pipeline.PipelinedConnection:
        connection = mysql_pipeline.connect(**options)
        self._connections.add(connection)
        return connection


def _set_up_reader(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ANN401 (the driver's)
    with closing(connection.cursor()) as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    record.info["read_only_checked"] = time.monotonic()


def _drop_if_read_only(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:  # noqa: ANN401 (the driver's)
    """Raise `DisconnectionError` if the server is read-only, so that the pool connects again.

    A new connection is not checked: if the only server is read-only, it can still be read.
    """
    now = time.monotonic()
    if now - record.info["read_only_checked"] < READ_ONLY_CHECK_SECONDS:
        return
    record.info["read_only_checked"] = now
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT @@GLOBAL.read_only")
        (read_only,) = cursor.fetchone()
    if read_only:
        raise DisconnectionError


def _set_up_sqlite(connection: sqlite3.Connection, lock_wait_seconds: int) -> None:
    connection.isolation_level = None  # SQLAlchemy's "begin" event starts transactions
    connection.execute(f"PRAGMA busy_timeout = {lock_wait_seconds * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
    connection.execute("PRAGMA synchronous = FULL")  # with NORMAL a power loss forgets commits


def connect(engine: Engine) -> Connection:
    """Connect. Raises `LogUnavailable` for any error: none is caused by a statement."""
    try:
        return engine.connect()
    except FairlogError:
        raise
    except Exception as error:
        raise LogUnavailable(f"{explained(error)} The request can be sent again.") from error


@contextmanager
def translated(*, is_read: bool = False) -> Iterator[None]:
    """Turn an error of the database into `LogUnavailable` if trying again later may help.

    With `is_read`, the statements are queries, and for those it may help after any error.
    """
    try:
        yield
    except FairlogError:
        raise
    except Exception as error:
        if not (is_for_everybody(error) or (is_read and isinstance(error, DBAPIError))):
            raise
        raise LogUnavailable(f"{explained(error)} The request can be sent again.") from error


@contextmanager
def _used(connection: Connection) -> Iterator[Connection]:
    """Close the connection in the end. After an error it may be in any state, so it is discarded
    instead of going back to the pool.
    """
    try:
        yield connection
    except FairlogError:  # not of the connection's making
        raise
    except BaseException:
        throw_away(connection)
        raise
    finally:
        connection.close()


def throw_away(connection: Connection) -> None:
    """Discard a connection, whatever state it is in. Raises nothing."""
    with suppress(Exception):
        connection.invalidate()
    with suppress(Exception):
        connection.close()
