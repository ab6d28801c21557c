"""Creating and upgrading the log's tables, by any number of servers at once."""

import threading
import time
from collections.abc import Sequence
from enum import Enum
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from adapters.database.database import Database, translated
from adapters.database.faults import Fault, error_code, fault_of
from adapters.database.grants import has_right
from adapters.log.tables import HEAD_ID
from domain.language.errors import FairlogError, LogUnavailable

REVISION: Final = "0004"  # of the newest migration
ATTEMPTS_MAX: Final = 20
_PAUSE_SECONDS: Final = 0.25
# A table, column, key, trigger or row exists already, or the table was just redefined: another
# server was quicker.
_ANOTHER_WAS_QUICKER: Final = frozenset({1050, 1060, 1061, 1062, 1359, 1412, 1684})
_NEEDS_SUPER: Final = frozenset({1419, 1227, 1142})
_NO_TRIGGERS: Final = frozenset({1064, 1235, 8108})  # TiDB

_one_at_a_time: Final = threading.Lock()  # Alembic keeps its state in module globals

_MESSAGE: Final = "events are append-only"
_TRIGGERS: Final = {
    "events_no_update": "UPDATE ON events",
    "events_no_delete": "DELETE ON events",
}
# An event may be deleted once the head row declares it archived; without a head row none may.
_MAY_NOT_GO: Final = (
    f"OLD.position > COALESCE((SELECT archived FROM log_head WHERE id = {HEAD_ID}), 0)"
)
# SQLite runs no DELETE trigger when REPLACE replaces a row.
_SQLITE_TRIGGERS: Final = _TRIGGERS | {
    "events_no_delete": f"DELETE ON events WHEN {_MAY_NOT_GO}",
    "events_no_replace": "INSERT ON events WHEN EXISTS"
    " (SELECT 1 FROM events AS present WHERE present.position = NEW.position)",
}


class TriggerFault(Enum):
    """A fault of a trigger, as a predicate for messages."""

    MISSING = "is missing"
    CHANGED = "is not as Fairlog makes it"


class RevisionChanged(Exception):
    """Another server was quicker: the stored revision is not the one that was read."""


class NoTriggers(FairlogError):
    """The database refused to create the triggers that keep events from being changed."""


def migrate(database: Database) -> None:
    """Create or upgrade the log's tables. Does nothing if they are up to date."""
    database.create_file()
    with translated():
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with _one_at_a_time, database.writing_engine.begin() as connection:
                    found = _only(_without_outrun(connection, _revisions(connection)))
                    if found != REVISION:
                        from adapters.log.upgrade import upgrade  # noqa: PLC0415 (see there)

                        upgrade(connection, found)
                return
            except DBAPIError as error:
                another_was_quicker = error_code(error) in _ANOTHER_WAS_QUICKER
                if attempt == ATTEMPTS_MAX or not (
                    another_was_quicker or fault_of(error) is Fault.TRY_AGAIN
                ):
                    raise
            except RevisionChanged:
                if attempt == ATTEMPTS_MAX:
                    raise
            time.sleep(_PAUSE_SECONDS)


def protect_events(database: Database) -> None:
    """Create triggers by which the database refuses UPDATE and DELETE on events.

    Raises `NoTriggers`, with what to do, if it refuses; in production, grants do the same.
    """
    for name, fault in trigger_faults(database).items():
        try:
            with database.write() as connection:
                if fault is TriggerFault.CHANGED:
                    connection.exec_driver_sql(f"DROP TRIGGER {name}")
                connection.exec_driver_sql(_trigger(name, is_sqlite=database.is_sqlite))
        except (DBAPIError, LogUnavailable) as error:
            code = error_code(error)
            if code in _ANOTHER_WAS_QUICKER:
                continue
            if code in _NEEDS_SUPER:
                raise NoTriggers(
                    "The account may not create the triggers that keep events from being changed: "
                    "grant it TRIGGER, and with a binary log on set "
                    "log_bin_trust_function_creators=1; then run `fairlog migrate` again."
                ) from error
            if code in _NO_TRIGGERS:
                raise NoTriggers(
                    "This database has no triggers; grant the account only SELECT and INSERT on "
                    "events, so that they cannot be changed."
                ) from error
            raise


def trigger_faults(database: Database) -> dict[str, TriggerFault]:
    """Return the triggers on events that differ from this release's, as far as they are visible."""
    if database.is_sqlite:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'"
    else:
        query = (
            "SELECT trigger_name, CONCAT('CREATE TRIGGER ', trigger_name, ' ', action_timing, ' ',"
            " event_manipulation, ' ON ', event_object_table, ' FOR EACH ROW ', action_statement)"
            " FROM information_schema.triggers"
            " WHERE event_object_schema = DATABASE() AND event_object_table = 'events'"
        )
    with database.read() as connection:
        present = {str(name): text for name, text in connection.exec_driver_sql(query)}
    faults: dict[str, TriggerFault] = {}
    for name in _SQLITE_TRIGGERS if database.is_sqlite else _TRIGGERS:
        if name not in present:
            faults[name] = TriggerFault.MISSING
            continue
        found, wanted = present[name], _trigger(name, is_sqlite=database.is_sqlite)
        if found is not None and _plain(found) != _plain(
            wanted
        ):  # None: the account may not see it
            faults[name] = TriggerFault.CHANGED
    return faults


def sees_triggers(database: Database) -> bool:
    """Return True if this account sees every trigger that exists."""
    if database.is_sqlite:
        return True
    with database.read() as connection:
        # To an account without the right MySQL shows nothing, and MariaDB at most the names.
        return _is_tidb(connection) or _has(connection, "TRIGGER")


def triggers_are_possible(database: Database) -> bool:
    """Return False if `fairlog migrate` cannot create triggers: on TiDB, and with a binary log for
    an account without SUPER while log_bin_trust_function_creators is off.
    """
    if database.is_sqlite:
        return True
    with database.read() as connection:
        names = "'log_bin', 'log_bin_trust_function_creators'"
        rows = connection.exec_driver_sql(f"SHOW VARIABLES WHERE variable_name IN ({names})")
        is_on = {str(name).lower(): str(value).upper() in {"ON", "1"} for name, value in rows}
        return not _is_tidb(connection) and (
            not is_on.get("log_bin")
            or bool(is_on.get("log_bin_trust_function_creators"))
            or _has(connection, "SUPER")
        )


def _is_tidb(connection: Connection) -> bool:
    return "tidb" in str(connection.exec_driver_sql("SELECT VERSION()").scalar_one()).lower()


def _has(connection: Connection, right: str) -> bool:
    grants = [str(line) for (line,) in connection.exec_driver_sql("SHOW GRANTS")]
    schema = str(connection.exec_driver_sql("SELECT DATABASE()").scalar_one())
    return has_right(grants, right, schema, "events")


def _plain(statement: str) -> str:
    return " ".join(statement.replace("IF NOT EXISTS ", "").replace("`", "").split())


def is_current(database: Database) -> bool:
    """Return True if the tables are those of this release, and False if there are none."""
    if database.is_new:
        return False
    with database.read() as connection:
        return _only(_revisions(connection)) == REVISION


def _without_outrun(connection: Connection, stored: Sequence[str]) -> Sequence[str]:
    """Delete all but the highest of several stored revisions that are known, and return the rest.

    Of two servers that migrate at once, the slower one may insert its row beside that of the faster
    one, which is ahead: each migration commits by itself on MySQL. Its steps do nothing then.
    """
    if len(stored) <= 1 or not all(one.isdecimal() and one <= REVISION for one in stored):
        return stored
    highest = max(stored)
    outrun = sa.text("DELETE FROM alembic_version WHERE version_num < :highest")
    connection.execute(outrun, {"highest": highest})
    return [highest]


def _revisions(connection: Connection) -> Sequence[str]:
    if not sa.inspect(connection).has_table("alembic_version"):
        return []
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()


def _only(stored: Sequence[str]) -> str | None:
    """Return the stored revision; None: there are no tables yet."""
    if len(stored) > 1:
        raise FairlogError(
            f"alembic_version has {len(stored)} rows ({', '.join(sorted(stored))}), and Fairlog "
            "writes one: delete the others."
        )
    return stored[0] if stored else None


def _trigger(name: str, *, is_sqlite: bool) -> str:
    if is_sqlite:
        return (
            f"CREATE TRIGGER IF NOT EXISTS {name} BEFORE {_SQLITE_TRIGGERS[name]}"
            f" BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
        )
    refuse = f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{_MESSAGE}'"
    if name == "events_no_delete":
        refuse = f"IF {_MAY_NOT_GO} THEN {refuse}; END IF"
    return f"CREATE TRIGGER {name} BEFORE {_TRIGGERS[name]} FOR EACH ROW {refuse}"
