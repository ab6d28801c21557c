"""Checks of the database settings that Fairlog relies on, and how to correct each.

Each check is one small function. Those of durability also run at every start: if one fails, an
answer no longer means that the event is on disk.
"""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from adapters.database.database import Database
from adapters.database.faults import error_code
from adapters.database.grants import may_drop
from adapters.log.schema import (
    TriggerFault,
    is_current,
    sees_triggers,
    trigger_faults,
)
from adapters.log.schema_check import schema_faults
from adapters.log.tables import metadata

PACKET_BYTES_MIN: Final = 16 * 1024 * 1024  # enough for a body of 1 MiB, and for a batch
# What the account of the service needs of the log's own tables, as in docs/production.md.
SERVICE_GRANTS: Final = (
    "GRANT SELECT, INSERT on events and bodies; SELECT, UPDATE (position, hash, recorded_at, "
    "epoch, saved) on log_head; and SELECT on log_snapshot, log_tiles and alembic_version"
)
_SQLITE_MIN: Final = (3, 35)
_MARIADB_MIN: Final = (10, 11)
_MYSQL_MIN: Final = (8, 0)
_FULL: Final = 2  # of PRAGMA synchronous
_DENIED: Final = frozenset({1142, 1143, 1044, 1370})
_VARIABLES: Final = (
    "innodb_flush_log_at_trx_commit",
    "sync_binlog",
    "log_bin",
    "log_bin_trust_function_creators",
    "tx_isolation",
    "transaction_isolation",
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "max_allowed_packet",
    "time_zone",
)

Variables = Mapping[str, str]


class Level(StrEnum):
    OK = "ok"
    UNKNOWN = "unknown"  # the account may not look
    WARNING = "warning"  # Fairlog works, but something should be improved
    ERROR = "error"  # Fairlog cannot keep a guarantee, or cannot work at all


class DoctorFinding(Struct, frozen=True):
    """The result of one check."""

    check: str
    level: Level
    found: str
    mend: str | None = None  # what to do; None: nothing


def examine(database: Database, projections: Sequence[sa.Table] = ()) -> Iterator[DoctorFinding]:
    """Run all checks, with one finding each. Raises `LogUnavailable` if the database is away.

    `projections` are the tables that must exist besides the log's own; empty: not checked.
    """
    examined = _examine_sqlite if database.is_sqlite else _examine_server
    yield from examined(database, projections)


def unsafe_settings(database: Database) -> list[DoctorFinding]:
    """Return what may lose answered submissions in a crash, for a warning at every start."""
    with database.read() as connection:
        if database.is_sqlite:
            findings = [sqlite_journal(connection), sqlite_synchronous(connection)]
        else:
            variables = _variables(connection)
            findings = [flush_at_commit(variables), binary_log_flush(variables)]
    return [finding for finding in findings if finding.level is not Level.OK]


def _examine_sqlite(database: Database, projections: Sequence[sa.Table]) -> Iterator[DoctorFinding]:
    yield sqlite_version(sqlite3.sqlite_version_info)
    file = Path(database.url.database or "")
    yield sqlite_file(file)
    if not file.exists():
        return
    with database.read() as connection:
        yield sqlite_journal(connection)
        yield sqlite_synchronous(connection)
    schema = tables(database)
    yield schema
    if schema.level is Level.OK:
        if projections:
            yield projection_tables(database, projections)
        yield schema_as_made(database, projections)
        yield triggers(trigger_faults(database), {})


def _examine_server(database: Database, projections: Sequence[sa.Table]) -> Iterator[DoctorFinding]:
    with database.read() as connection:
        variables = _variables(connection)
        yield server_version(str(connection.exec_driver_sql("SELECT VERSION()").scalar_one()))
        yield flush_at_commit(variables)
        yield binary_log_flush(variables)
        yield isolation(variables)
        yield character_set(variables)
        yield time_zone(variables)
        yield packet(variables)
        yield clock(connection)
    schema = tables(database)
    yield schema
    if schema.level is Level.OK:
        if projections:
            yield projection_tables(database, projections)
        yield schema_as_made(database, projections)
        is_seen = sees_triggers(database)
        yield triggers(trigger_faults(database), variables, is_seen=is_seen)
        with database.read() as connection:
            yield engine(connection)
            yield from rights(connection)


def _variables(connection: Connection) -> Variables:
    """Return the values in our session; one that the server does not know is missing."""
    names = ", ".join(f"'{name}'" for name in _VARIABLES)
    rows = connection.exec_driver_sql(f"SHOW VARIABLES WHERE variable_name IN ({names})")
    return {str(name).lower(): str(value) for name, value in rows}


# Durability


def flush_at_commit(variables: Variables) -> DoctorFinding:
    name = "innodb_flush_log_at_trx_commit"
    value = variables.get(name, "1")
    if value == "1":
        return DoctorFinding("flush at commit", Level.OK, f"{name} is 1: a commit is on disk")
    return DoctorFinding(
        "flush at commit",
        Level.ERROR,
        f"{name} is {value}: when the machine fails, submissions that were answered are lost",
        f"SET GLOBAL {name} = 1, and the same in the server's configuration",
    )


def binary_log_flush(variables: Variables) -> DoctorFinding:
    value = variables.get("sync_binlog", "1")
    if not _is_on(variables, "log_bin"):
        return DoctorFinding("binary log", Level.OK, "there is none")
    if value == "1":
        return DoctorFinding(
            "binary log", Level.OK, "sync_binlog is 1: it is on disk with each commit"
        )
    return DoctorFinding(
        "binary log",
        Level.ERROR,
        f"log_bin is on and sync_binlog is {value}: when the machine fails, the binary log may "
        "lack submissions that were answered, and replicas with it",
        "SET GLOBAL sync_binlog = 1, and the same in the server's configuration",
    )


def sqlite_journal(connection: Connection) -> DoctorFinding:
    mode = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
    if mode == "wal":
        return DoctorFinding(
            "journal", Level.OK, "journal_mode is WAL: readers and the writer go on"
        )
    return DoctorFinding(
        "journal",
        Level.ERROR,
        f"journal_mode is {mode}: the file's folder does not allow WAL",
        "move the file to a local disk; network folders have no shared memory",
    )


def sqlite_synchronous(connection: Connection) -> DoctorFinding:
    value = int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    if value >= _FULL:
        return DoctorFinding("synchronous", Level.OK, "synchronous is FULL: a commit is on disk")
    return DoctorFinding(
        "synchronous",
        Level.ERROR,
        f"synchronous is {value}: when the machine fails, submissions that were answered are lost",
        "use an SQLite that is compiled without a fixed synchronous setting",
    )


# The server and our session on it


def server_version(text: str) -> DoctorFinding:
    numbers = re.search(r"(\d+)\.(\d+)", text)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    name, least = ("MariaDB", _MARIADB_MIN) if "mariadb" in text.lower() else ("MySQL", _MYSQL_MIN)
    if version >= least:
        return DoctorFinding("version", Level.OK, text)
    return DoctorFinding(
        "version",
        Level.WARNING,
        f"{text} is older than what Fairlog is tested with",
        f"upgrade to {name} {least[0]}.{least[1]} or later",
    )


def isolation(variables: Variables) -> DoctorFinding:
    value = variables.get("transaction_isolation") or variables.get("tx_isolation") or "unknown"
    if value == "READ-COMMITTED":
        return DoctorFinding("isolation", Level.OK, "READ COMMITTED in our sessions")
    return DoctorFinding(
        "isolation",
        Level.ERROR,
        f"our sessions have {value}, although they ask for READ COMMITTED",
        "let no proxy or init_connect of the server change transaction_isolation",
    )


def character_set(variables: Variables) -> DoctorFinding:
    names = ("character_set_client", "character_set_connection", "character_set_results")
    found = {variables.get(name, "utf8mb4") for name in names}
    if found == {"utf8mb4"}:
        return DoctorFinding("character set", Level.OK, "utf8mb4 on our connections")
    return DoctorFinding(
        "character set",
        Level.ERROR,
        f"our connections have {', '.join(sorted(found))}, although they ask for utf8mb4",
        "let no proxy, init_connect or skip-character-set-client-handshake of the server change it",
    )


def time_zone(variables: Variables) -> DoctorFinding:
    value = variables.get("time_zone", "+00:00")
    if value == "+00:00":
        return DoctorFinding("time zone", Level.OK, "UTC in our sessions")
    return DoctorFinding(
        "time zone",
        Level.ERROR,
        f"our sessions have {value}, although they ask for +00:00: times would be off",
        "let no proxy or init_connect of the server change time_zone",
    )


def packet(variables: Variables) -> DoctorFinding:
    size = int(variables.get("max_allowed_packet", PACKET_BYTES_MIN))
    if size >= PACKET_BYTES_MIN:
        return DoctorFinding("packet size", Level.OK, f"max_allowed_packet is {size} bytes")
    return DoctorFinding(
        "packet size",
        Level.ERROR,
        f"max_allowed_packet is {size} bytes: large payloads would be refused",
        f"SET GLOBAL max_allowed_packet = {PACKET_BYTES_MIN} or more, and the same in the server's "
        "configuration",
    )


def clock(connection: Connection) -> DoctorFinding:
    """Check that no client can move SYSDATE(), as it can under `--sysdate-is-now`."""
    connection.exec_driver_sql("SET timestamp = 1")
    try:
        moved = bool(connection.exec_driver_sql("SELECT YEAR(SYSDATE()) = 1970").scalar_one())
    finally:
        connection.exec_driver_sql("SET timestamp = DEFAULT")
    if not moved:
        return DoctorFinding(
            "clock", Level.OK, "SYSDATE() is the server's clock, whatever a client sets"
        )
    return DoctorFinding(
        "clock",
        Level.ERROR,
        "sysdate-is-now is in force: the log's clock would be the time before its lock was had, "
        "and any client can move it",
        "start the server without --sysdate-is-now",
    )


# Tables


def tables(database: Database) -> DoctorFinding:
    if is_current(database):
        return DoctorFinding("tables", Level.OK, "the log's own are those of this release")
    return DoctorFinding(
        "tables", Level.WARNING, "missing, or those of another release", "run `fairlog migrate`"
    )


def projection_tables(database: Database, wanted: Sequence[sa.Table]) -> DoctorFinding:
    """Check that the projections' tables exist. A server shows only those that one may use."""
    with database.read() as connection:
        names = {table.name for table in wanted}
        missing = sorted(names - set(sa.inspect(connection).get_table_names()))
    if not missing:
        return DoctorFinding("projections", Level.OK, "all their tables are there")
    no_right = "" if database.is_sqlite else ", or no right to use them"
    return DoctorFinding(
        "projections",
        Level.ERROR,
        f"no tables {', '.join(missing)}{no_right}",
        "run `fairlog migrate`, which builds them from the log"
        + ("" if database.is_sqlite else ", then grant the service's account its rights on them"),
    )


def schema_as_made(database: Database, projections: Sequence[sa.Table]) -> DoctorFinding:
    """Check columns, keys and indexes against those of this release."""
    with database.read() as connection:
        present = set(sa.inspect(connection).get_table_names())
        wanted = [*metadata.sorted_tables, *projections]
        faults = [
            f"{one.table}, {one.what}: {one.found}, and not {one.wanted}"
            for one in schema_faults(
                connection, [table for table in wanted if table.name in present]
            )
        ]
    if not faults:
        return DoctorFinding("columns and indexes", Level.OK, "as this release makes them")
    return DoctorFinding(
        "columns and indexes",
        Level.ERROR,
        "; ".join(faults),
        "run `fairlog migrate`, which creates missing indexes; alter a column back by hand, or, in "
        "a projection, drop its table and run `fairlog migrate`",
    )


def engine(connection: Connection) -> DoctorFinding:
    """Check that all tables have an engine with transactions."""
    rows = connection.exec_driver_sql(
        "SELECT table_name, engine FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND engine <> 'InnoDB'"
        " ORDER BY table_name"
    )
    others = [f"{name} ({kind})" for name, kind in rows]
    if not others:
        return DoctorFinding("engine", Level.OK, "InnoDB for every table")
    return DoctorFinding(
        "engine",
        Level.ERROR,
        f"without transactions: {', '.join(others)}",
        "ALTER TABLE … ENGINE = InnoDB",
    )


def triggers(
    faults: Mapping[str, TriggerFault], variables: Variables, *, is_seen: bool = True
) -> DoctorFinding:
    """Check the triggers. `is_seen`: the account would see a trigger that exists."""
    if not faults:
        return DoctorFinding("append-only", Level.OK, "triggers refuse UPDATE and DELETE on events")
    if not is_seen and set(faults.values()) == {TriggerFault.MISSING}:
        found = "this account may not see triggers; run `doctor` as the owner of the tables too"
        return DoctorFinding("append-only", Level.UNKNOWN, found)
    found = "; ".join(f"the trigger {name} {fault.value}" for name, fault in faults.items())
    mend = "run `fairlog migrate`"
    if _is_on(variables, "log_bin") and not _is_on(variables, "log_bin_trust_function_creators"):
        mend = (
            "with a binary log on, an account without SUPER may create them only after SET GLOBAL "
            "log_bin_trust_function_creators = 1; then run `fairlog migrate`"
        )
    return DoctorFinding("append-only", Level.WARNING, found, mend)


def rights(connection: Connection) -> Iterator[DoctorFinding]:
    """Check what the account may do with the log.

    EXPLAIN needs the rights of the statement that it explains, and does nothing. So roles and
    wildcards are evaluated by the server itself.
    """
    needed = {
        "SELECT and INSERT on events": "INSERT INTO events SELECT * FROM events WHERE 1 = 0",
        "SELECT and INSERT on bodies": "INSERT INTO bodies SELECT * FROM bodies WHERE 1 = 0",
        "SELECT … FOR UPDATE on log_head": "SELECT position FROM log_head FOR UPDATE",
        "UPDATE on log_head": "UPDATE log_head SET position = position",
    }
    lacking = [what for what, statement in needed.items() if not _may(connection, statement)]
    if lacking:
        yield DoctorFinding(
            "rights",
            Level.ERROR,
            f"the account lacks {', '.join(lacking)}",
            SERVICE_GRANTS,
        )
    else:
        yield DoctorFinding("rights", Level.OK, "the account may do what Fairlog does with the log")
    changing = {
        "UPDATE": "UPDATE events SET version = version",
        "DELETE": "DELETE FROM events WHERE position = 0",
    }
    excess = [right for right, statement in changing.items() if _may(connection, statement)]
    grants = [str(line) for (line,) in connection.exec_driver_sql("SHOW GRANTS")]
    schema = str(connection.exec_driver_sql("SELECT DATABASE()").scalar_one())
    if may_drop(grants, schema, "events"):
        excess.append("DROP")
    if excess:
        yield DoctorFinding(
            "rights on events",
            Level.WARNING,
            f"the account has {', '.join(excess)}: fine for development, too much for production",
            "leave it SELECT and INSERT on events, and no DROP in the database: it allows TRUNCATE",
        )
    else:
        yield DoctorFinding("rights on events", Level.OK, "the account may only read and append")


def may_erase(database: Database) -> bool:
    """Return True if the account may delete bodies, which only the one that erases needs."""
    if database.is_sqlite:
        return True
    with database.read() as connection:
        return _may(connection, "DELETE FROM bodies WHERE position = 0")


def may_archive(database: Database) -> bool:
    """Return True if the account may delete events, which only the one that archives needs."""
    if database.is_sqlite:
        return True
    with database.read() as connection:
        return _may(connection, "DELETE FROM events WHERE position = 0")


def _may(connection: Connection, statement: str) -> bool:
    try:
        connection.exec_driver_sql(f"EXPLAIN {statement}").all()
    except DBAPIError as error:
        if error_code(error) in _DENIED:
            return False
        raise
    return True


def sqlite_version(version: tuple[int, ...]) -> DoctorFinding:
    text = ".".join(map(str, version))
    if version >= _SQLITE_MIN:
        return DoctorFinding("version", Level.OK, f"SQLite {text}")
    return DoctorFinding(
        "version",
        Level.ERROR,
        f"SQLite {text} is too old",
        "use a Python with SQLite 3.35 or later",
    )


def sqlite_file(file: Path) -> DoctorFinding:
    folder = file.absolute().parent
    if not folder.is_dir():
        return DoctorFinding(
            "file", Level.ERROR, f"there is no folder {folder}", f"mkdir -p {folder}"
        )
    wanted = [path for path in (file, folder) if path.exists() and not os.access(path, os.W_OK)]
    if wanted:  # the folder too: SQLite creates the write-ahead log there
        found = f"{wanted[0]} cannot be written"
        return DoctorFinding("file", Level.ERROR, found, "give this account the right to write it")
    if not file.exists():
        return DoctorFinding(
            "file", Level.WARNING, f"there is no {file} yet", "run `fairlog migrate`"
        )
    return DoctorFinding("file", Level.OK, f"{file} can be written")


def _is_on(variables: Variables, name: str) -> bool:
    return variables.get(name, "OFF").upper() in {"ON", "1"}
