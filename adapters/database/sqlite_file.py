"""The file of an embedded database: created by `migrate` alone, and never replaced while we run.

When somebody removes, moves or replaces the file, SQLite goes on using the one that it has open,
and what it writes from then on is lost when the process ends. So each connection opens an existing
file that is the one opened first, and at each commit the writer compares its open files with those
at their paths: the database, its write-ahead log, and the index of that log, through which
connections see each other's writes. If the index is removed, later connections create another, and
connections with different indexes overwrite each other's data.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.engine import Connection

from domain.language.errors import FairlogError, LogFileReplaced

# Size to which the write-ahead log is cut after a checkpoint: twice its usual size, since SQLite
# makes a checkpoint every 1,000 pages (of 4 KiB).
JOURNAL_BYTES_MAX: Final = 8 * 1024 * 1024
_OWNER_ONLY: Final = 0o600
_HEADER: Final = b"SQLite format 3\x00"  # sqlite.org/fileformat.html; an empty file has none
_SUFFIXES: Final = ("-wal", "-shm")
# In a connection's `info`: the companion files when it was opened.
_OPENED: Final = "fairlog_opened"

_Identity = tuple[int, int]  # device and inode


class SqliteFile:
    """The file of one `Database`. A relative path is resolved once, against the current folder."""

    def __init__(self, path: str) -> None:
        self.path: Path = Path(path).absolute()
        self._opened: _Identity | None = None

    @property
    def is_new(self) -> bool:
        """True while the file does not exist."""
        return self._opened is None and not self.path.exists()

    def check_place(self) -> None:
        """Check that a database can be at the path. Raises `FairlogError`, before anything is
        created.
        """
        path = self.path
        if path.is_dir():
            raise FairlogError(f"{path} is a folder: name a file in it, like {path}/fairlog.db.")
        if not path.parent.is_dir():
            raise FairlogError(f"There is no folder {path.parent}: create it, or name another.")
        try:
            with path.open("rb") as file:
                begin = file.read(len(_HEADER))
        except FileNotFoundError:
            return
        except OSError as error:
            raise FairlogError(f"{path} cannot be read ({error.strerror}).") from error
        if begin and begin != _HEADER:
            raise FairlogError(f"{path} is not an SQLite database: name another file.")

    def create(self) -> None:
        """Create an empty file that only its owner can read, unless it exists.

        SQLite gives the write-ahead log and its index the same permissions. If it cannot be
        created, the next connection raises the reason.
        """
        if self._opened is None:
            real = self.path.resolve()  # a link may point to a file that does not exist
            with contextlib.suppress(OSError):  # it exists, mostly
                os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ONLY))

    def connect(self, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 (those of sqlite3)
        """Open the file, which must exist. Raises `LogFileReplaced`, and errors of sqlite3."""
        self._check_same()
        connection: sqlite3.Connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=rw", uri=True, **options
        )
        try:
            self._check_same()  # nobody has replaced it meanwhile
        except LogFileReplaced:
            connection.close()
            raise
        if self._opened is None:
            self._opened = _identity(self.path)
        return connection

    def check_in_place(self, connection: Connection) -> None:
        """Check that other connections will read what this one's transaction writes.

        Raises `LogFileReplaced`. Keep the connection then: the service continues when the file is
        put back.
        """
        self._check_same()
        companions = [_companion(self.path, suffix) for suffix in _SUFFIXES]
        found = [_identity(one) for one in companions]
        opened = connection.info.setdefault(_OPENED, found)
        for path, now, before in zip(companions, found, opened, strict=True):
            if now is None or now != before:
                raise self._replaced(path)

    def _check_same(self) -> None:
        if self._opened is not None and _identity(self.path) != self._opened:
            raise self._replaced(self.path)

    def _replaced(self, path: Path) -> LogFileReplaced:
        return LogFileReplaced(
            f"{path.name} is no longer the file that Fairlog has open: it was removed, moved or "
            f"replaced, and nothing is written any more. Put it back, or start Fairlog again."
        )


def journal_bytes(path: Path) -> int:
    """Return the size of the write-ahead log; 0 if it does not exist."""
    try:
        return _companion(path, "-wal").stat().st_size
    except OSError:
        return 0


def _companion(path: Path, suffix: str) -> Path:
    real = path.resolve() if path.is_symlink() else path  # they are next to the real file
    return real.with_name(f"{real.name}{suffix}")


def _identity(path: Path) -> _Identity | None:
    """Return the file's identity; None if it does not exist or is not accessible."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
