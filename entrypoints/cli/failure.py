"""Turns any error of a command into one sentence that says what to do, and an exit code."""

import re
import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from adapters.database.faults import error_code
from adapters.database_url import redacted
from adapters.settings import SettingsError
from domain.language.errors import FairlogError, InvalidInput, LogUnavailable
from fairlog_client.handlers.loading import HandlersError
from fairlog_client.worker.job_source import SourceRefused

CHECK_FAILED: Final = 1  # exit code: the check failed, or the work could not be done
WRONG_USE: Final = 2  # exit code: wrong options or settings
_CHARACTERS_MAX: Final = 600


class CommandFailed(Exception):
    """The error that ends a command. The message is shown to the user and holds no secret."""

    def __init__(self, message: str, exit_code: int = CHECK_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def failure_of(error: Exception) -> CommandFailed:
    """Return an error with a message of one line that can be shown to the user."""
    match error:
        case CommandFailed():
            message, code = str(error), error.exit_code
        case SettingsError() | HandlersError() | InvalidInput() | SourceRefused():
            message, code = str(error), WRONG_USE
        case FairlogError():
            message, code = str(error), CHECK_FAILED
        case OSError(strerror=str(reason)):
            about = f"{error.filename}: " if error.filename else ""
            message, code = f"{about}{reason}.", CHECK_FAILED
        case _:
            message = (
                f"{type(error).__name__}: {error} (this should not happen: run the command again "
                "as `fairlog --debug …`, and report what it shows)"
            )
            code = CHECK_FAILED
    line = " ".join(message.split())
    return CommandFailed(
        line if len(line) <= _CHARACTERS_MAX else f"{line[: _CHARACTERS_MAX - 1]}…", code
    )


def database_failure(
    error: LogUnavailable | SQLAlchemyError, database_url: str
) -> CommandFailed | None:
    """Return an error that names the database and says what to do.

    None if the error did not come from the database driver; its own message is better then.
    """
    cause: BaseException | None = error
    while isinstance(cause, LogUnavailable):
        cause = cause.__cause__
    if not isinstance(cause, DBAPIError):
        return None
    shown = redacted(database_url)
    original = cause.orig
    if isinstance(original, sqlite3.Error):
        return CommandFailed(_sqlite_message(original, shown))
    code = error_code(cause)
    message = _SERVER_MESSAGES.get(code or 0)
    if message is None:
        message = f"The database {{}} refused ({code}: {_server_text(cause)})."
    account = _ACCOUNT.search(_server_text(cause))
    if account is not None:
        message += f" The server sees {account[0]}."
    return CommandFailed(message.replace("{}", shown))


_AWAY: Final = "The database {} does not answer: check that it runs, and its host and port."
# An account as MySQL and MariaDB name it in their messages, with the host that they see.
_ACCOUNT: Final = re.compile(r"'[^']*'@'[^']*'( \(using password: (YES|NO)\))?")
_REFUSED_ACCOUNT: Final = (
    "The database {} refuses the account or its password: check FAIRLOG_DATABASE_URL (a character "
    "like @ or % in a password must be written as %40 or %25)."
)
_MISSING: Final = "The tables in {} are missing or not of this release: run `fairlog migrate`."
_SERVER_MESSAGES: Final = {  # by the error numbers of MySQL and MariaDB
    1040: "The database {} has no connection left: raise its max_connections.",
    1044: "The account may not use the database {}: GRANT it the rights, or check the name.",
    1045: _REFUSED_ACCOUNT,
    1698: _REFUSED_ACCOUNT,
    1049: "The database {} does not exist: create it (CREATE DATABASE …), or check the name.",
    1054: _MISSING,
    1142: "The account lacks a right in {}: run `fairlog doctor`, which names it.",
    1146: _MISSING,
    1205: "Another process holds a lock in {}: try again.",
    2002: _AWAY,
    2003: _AWAY,
    2005: _AWAY,
    2006: "The connection to {} was lost: try again.",
    2013: "The connection to {} was lost: try again.",
}


def _sqlite_message(error: sqlite3.Error, shown: str) -> str:
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_CANTOPEN:
            return f"{shown} cannot be opened: check that its folder exists and is writable."
        case sqlite3.SQLITE_READONLY:
            return f"{shown} cannot be written: give this account the right to write it."
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return f"{shown} is not an SQLite database, or is damaged ({error})."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{shown} is locked by another process: try again."
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return f"{shown} cannot be written ({error}): is the disk full?"
        case _ if str(error).startswith(("no such table", "no such column")):
            return _MISSING.replace("{}", shown)
        case _:
            return f"{shown}: {error}."


def _server_text(error: DBAPIError) -> str:
    _, *text = getattr(error.orig, "args", (None,))
    return str(text[0]) if text else type(error.orig).__name__
