"""Classification of database errors, by number and never by text, and advice for operators."""

import sqlite3
from enum import Enum
from typing import Any, Final

from pymysql import MySQLError
from sqlalchemy.exc import (
    DBAPIError,
    DisconnectionError,
    InvalidRequestError,
    PendingRollbackError,
    ResourceClosedError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from domain.language.errors import LogCorrupt, LogUnavailable


class Fault(Enum):
    """The meaning of a failed statement for its transaction.

    The writer may use the connection again after REFUSED, and after no other one.
    """

    TRY_AGAIN = "the same transaction may succeed when it is tried again"
    LOST = "the connection is lost; the outcome of its transaction is unknown"
    BROKEN = "the database can do it for no caller, until somebody repairs it"
    REFUSED = "the database refuses the values of this statement, and will again"
    UNKNOWN = "this error is not known"


# Deadlock, lock wait time-out, snapshot conflict (MariaDB 11.6.2 and later), a statement that was
# interrupted or took too long, certification failure, a Galera node that is not ready, a rollback
# during commit (group replication), and TiDB's retryable errors.
_TRY_AGAIN: Final = frozenset(
    {1020, 1047, 1180, 1205, 1213, 1317, 1412, 1637, 1969, 3024, 3058, 3101, 3572}
    | {8002, 8022, 8028, 9001, 9002, 9003, 9004, 9005, 9007}
)
# Cannot connect, connection lost, out of sync, shutting down, killed.
_LOST: Final = frozenset(
    {0, 1042, 1043, 1053, 1079, 1080, 1152, 1154, 1155, 1156, 1157, 1158, 1159, 1160, 1161, 1184}
    | {1835, 1927, 2000, 2001, 2002, 2003, 2004, 2005, 2006, 2011, 2012, 2013, 2014, 2026, 2027}
    | {2055, 3168, 3169, 4031}
)
_NO_CONNECTION_LEFT: Final = frozenset({1040, 1203})
_ACCOUNT_USED_UP: Final = frozenset({1226})
_NO_MEMORY: Final = frozenset({5, 1037, 1038, 1041, 1135})
_READ_ONLY: Final = frozenset({1036, 1290, 1792, 1836, 1874, 3032})
# Among them ENOSPC and numbers of storage engines, which servers report as their own.
_FULL: Final = frozenset({3, 20, 28, 122, 135, 136, 1021, 1026, 1114, 1878, 3675})
_DAMAGED: Final = frozenset(
    {
        2,
        9,
        126,
        127,
        134,
        144,
        145,
        1016,
        1017,
        1023,
        1024,
        1030,
        1033,
        1034,
        1035,
        1194,
        1195,
        1459,
    }
    | {1707, 1712, 1812, 1813, 1814, 1815, 1877, 1932}
)
_NO_RIGHT: Final = frozenset(
    {1044, 1045, 1129, 1130, 1142, 1143, 1227, 1370, 1698, 1820, 1862, 3118, 3955, 4151}
)
_NO_DATABASE: Final = frozenset({1049})
_NO_TABLE: Final = frozenset({1051, 1054, 1109, 1146, 1305})
# About the values of one statement: duplicate, null, too long, out of range, not in the character
# set, a packet too large, refused by a check or a trigger.
_REFUSED: Final = frozenset(
    {1048, 1062, 1153, 1162, 1169, 1264, 1265, 1292, 1300, 1301, 1364, 1366, 1367, 1390, 1406}
    | {1411, 1416, 1451, 1452, 1525, 1557, 1586, 1588, 1644, 1690, 3140, 3819, 3854, 4025}
)
_WHAT: Final = {
    "has no connection left for us: raise max_connections, or the account's "
    "MAX_USER_CONNECTIONS": _NO_CONNECTION_LEFT,
    "lets the account have no more connections or statements now: raise its limit "
    "(MAX_USER_CONNECTIONS, MAX_QUERIES_PER_HOUR or MAX_UPDATES_PER_HOUR)": _ACCOUNT_USED_UP,
    "has run out of memory: give it more": _NO_MEMORY,
    "is read-only: end that, or point Fairlog to the server that can be written": _READ_ONLY,
    "cannot write because its disk (or a quota) is full: free some space": _FULL,
    "reports a damaged or unreadable file: look into its error log, repair or restore it, and run "
    "`fairlog verify`": _DAMAGED,
    "refuses the account: `fairlog doctor` says which right it lacks": _NO_RIGHT,
    "does not have the schema that the URL names: create or restore it": _NO_DATABASE,
    "lacks a table or column of this release: run `fairlog migrate`": _NO_TABLE,
}
_BROKEN: Final = frozenset().union(*_WHAT.values())

_SQLITE_TRY_AGAIN: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_ABORT,
    }
)
_SQLITE_REFUSED: Final = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
    }
)
_SQLITE_WHAT: Final = {
    sqlite3.SQLITE_FULL: "cannot be written because its disk (or a quota) is full: free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written (an input or output error): look at its disk, "
    "and whether that is full",
    sqlite3.SQLITE_CORRUPT: "is damaged: stop the service, restore the file from a backup or "
    "recover it (sqlite3's .recover), and run `fairlog verify`",
    sqlite3.SQLITE_NOTADB: "is no SQLite database, or a damaged one: restore it from a backup",
    sqlite3.SQLITE_READONLY: "cannot be written: give this account the right to write the file and "
    "its folder",
    sqlite3.SQLITE_PERM: "cannot be opened: give this account the right to",
    sqlite3.SQLITE_AUTH: "cannot be used: access is denied",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: look whether its folder exists and can be written",
    sqlite3.SQLITE_NOMEM: "cannot be used: this machine has run out of memory",
    sqlite3.SQLITE_NOLFS: "is larger than the file system allows",
    # Our own statements are fixed, so something that they name does not exist.
    sqlite3.SQLITE_ERROR: "lacks a table or column of this release: run `fairlog migrate`",
}


def fault_of(error: BaseException) -> Fault:
    """Classify an error that a use of the database raised. Never raises."""
    if isinstance(error, LogUnavailable | DisconnectionError | PoolTimeoutError):
        return Fault.LOST
    if isinstance(error, LogCorrupt):
        return Fault.BROKEN
    if isinstance(error, InvalidRequestError | PendingRollbackError | ResourceClosedError):
        return Fault.UNKNOWN  # a connection in a state that it should not have
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return _fault_of_sqlite(original)
    code = error_code(error)
    if isinstance(error, DBAPIError) and error.connection_invalidated and code not in _BROKEN:
        return Fault.LOST
    if code is not None and isinstance(error, DBAPIError | MySQLError):
        return _fault_of_number(code)
    return Fault.LOST if isinstance(original, OSError) else Fault.UNKNOWN


def is_for_everybody(error: BaseException) -> bool:
    """Return True if any other statement would have failed too: trying again, now or after a
    repair, may help.
    """
    fault = fault_of(error)
    return fault in {Fault.TRY_AGAIN, Fault.LOST, Fault.BROKEN} or (
        fault is Fault.UNKNOWN and isinstance(error, DBAPIError | MySQLError | InvalidRequestError)
    )


def error_code(error: BaseException | None) -> int | None:
    """Return the server's or the client library's number; None for any other error."""
    while isinstance(error, LogUnavailable):
        error = error.__cause__
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    arguments = getattr(original, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def explained(error: BaseException) -> str:
    """Return a sentence that says what happened and what to do. It holds no data of users."""
    while isinstance(error, LogUnavailable) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, LogUnavailable | LogCorrupt):
        return str(error)
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return _explained_sqlite(original)
    code = error_code(error)
    for what, numbers in _WHAT.items():
        if code in numbers:
            return f"The database {what} (error {code})."
    if code == _LOCK_WAIT:
        return "Somebody else holds a lock in the database and does not let go of it (error 1205)."
    if code == NODE_NOT_READY:
        return "The database's node is not (or no longer) part of its cluster (error 1047)."
    fault = fault_of(error)
    if fault is Fault.TRY_AGAIN:
        return f"The database could not carry it out now (error {code})."
    if fault is Fault.LOST:
        return "The database does not answer."
    if code is not None:
        return f"The database reports error {code}; its error log may say more."
    return f"The connection to the database failed ({type(error).__name__})."


def refused_to_all(error: BaseException) -> str:
    """Return the sentence for a refused statement that held no data of a user."""
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(original, "sqlite_errorname", f"error {error_code(error)}")
    return (
        f"The database refuses whatever is written ({name}): a trigger, a constraint, a column or "
        "a row that is not Fairlog's is in the way. Remove it; `fairlog verify` may say what it is."
    )


_LOCK_WAIT: Final = 1205
NODE_NOT_READY: Final = 1047  # of Galera; its other meaning, an unknown command, cannot occur


def _fault_of_number(code: int) -> Fault:
    for numbers, fault in (
        (_TRY_AGAIN, Fault.TRY_AGAIN),
        (_LOST, Fault.LOST),
        (_BROKEN, Fault.BROKEN),
        (_REFUSED, Fault.REFUSED),
    ):
        if code in numbers:
            return fault
    return Fault.UNKNOWN


def _fault_of_sqlite(error: sqlite3.Error) -> Fault:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # of the module: a type that it does not support, a closed cursor
        return Fault.UNKNOWN
    primary = code & 0xFF
    if primary in _SQLITE_TRY_AGAIN:
        return Fault.TRY_AGAIN
    if primary in _SQLITE_REFUSED:
        return Fault.REFUSED
    return Fault.BROKEN if primary in _SQLITE_WHAT else Fault.UNKNOWN


def _explained_sqlite(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "Another program holds the lock of the database's file and does not let go of it."
    name = getattr(error, "sqlite_errorname", f"error {code}")
    what = _SQLITE_WHAT.get(primary, "cannot be used")
    return f"The database's file {what} ({name})."
