"""What goes wrong at the command line: one sentence that says what to do, and an exit code."""

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from adapters.database.faults import error_code
from adapters.handlers.loading import HandlersError
from adapters.settings import SettingsError, redacted
from domain.language.errors import FairlogError, InvalidInput, LogUnavailable

CHECK_FAILED: Final = 1  # the check failed, or the work could not be done
WRONG_USE: Final = 2
_CHARACTERS_MAX: Final = 600


class CommandFailed(Exception):
    """Ends the command. The message is for the user and holds no secret."""

    def __init__(self, message: str, exit_code: int = CHECK_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def failure_of(error: Exception) -> CommandFailed:
    """Make any error fit to be shown, in one line."""
    match error:
        case CommandFailed():
            message, code = str(error), error.exit_code
        case SettingsError() | HandlersError() | InvalidInput():
            message, code = str(error), WRONG_USE
        case FairlogError():
            message, code = str(error), CHECK_FAILED
        case OSError(strerror=str(reason)):
            about = f"{error.filename}: " if error.filename else ""
            message, code = f"{about}{reason}.", CHECK_FAILED
        case _:
            message = (
                f"{type(error).__name__}: {error} (this should not happen: run it again with "
                "--debug, and report what that shows)"
            )
            code = CHECK_FAILED
    line = " ".join(message.split())
    return CommandFailed(
        line if len(line) <= _CHARACTERS_MAX else f"{line[: _CHARACTERS_MAX - 1]}…", code
    )


def database_failure(
    error: LogUnavailable | SQLAlchemyError, database_url: str
) -> CommandFailed | None:
    """Say which database it was and what to do; None where the error says that better itself."""
    cause: BaseException | None = error
    while isinstance(cause, LogUnavailable):
        cause = cause.__cause__
    if not isinstance(cause, DBAPIError):
        return None
    shown = redacted(database_url)
    original = cause.orig
    if isinstance(original, sqlite3.Error):
        return CommandFailed(_of_sqlite(original, shown))
    code = error_code(cause)
    what = _OF_SERVER.get(code or 0)
    if what is None:
        what = f"The database {{}} refused ({code}: {_server_text(cause)})."
    return CommandFailed(what.replace("{}", shown))


_AWAY: Final = "The database {} does not answer: check the host and the port, and that it runs."
_REFUSED_ACCOUNT: Final = (
    "The database {} refuses the account or its password: check FAIRLOG_DATABASE_URL (a character "
    "like @ or % in a password is written %40 or %25)."
)
_MISSING: Final = "The tables in {} are missing or not of this release: run `fairlog migrate`."
_OF_SERVER: Final = {
    1040: "The database {} has no connection left: raise its max_connections.",
    1044: "The account may not use the database {}: GRANT it the rights, or check the name.",
    1045: _REFUSED_ACCOUNT,
    1698: _REFUSED_ACCOUNT,
    1049: "There is no database {}: create it (CREATE DATABASE …), or check the name.",
    1054: _MISSING,
    1142: "The account lacks a right in {}: `fairlog doctor` says which.",
    1146: _MISSING,
    1205: "Something else holds a lock in {}: try again.",
    2002: _AWAY,
    2003: _AWAY,
    2005: _AWAY,
    2006: "The connection to {} was lost: try again.",
    2013: "The connection to {} was lost: try again.",
}


def _of_sqlite(error: sqlite3.Error, shown: str) -> str:
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_CANTOPEN:
            return f"{shown} cannot be opened: check that its folder exists and can be written."
        case sqlite3.SQLITE_READONLY:
            return f"{shown} cannot be written: give this account the right to."
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return f"{shown} is no SQLite database, or a damaged one ({error})."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{shown} is in use by something that does not let go of it: try again."
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return f"{shown} cannot be written ({error}): is the disk full?"
        case _ if str(error).startswith(("no such table", "no such column")):
            return f"{_MISSING.replace('{}', shown)}"
        case _:
            return f"{shown}: {error}."


def _server_text(error: DBAPIError) -> str:
    _, *text = getattr(error.orig, "args", (None,))
    return str(text[0]) if text else type(error.orig).__name__
