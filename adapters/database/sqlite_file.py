"""The file of an embedded database: made by `migrate` alone, and the same one as long as we run.

SQLite goes on with the file that it has open when somebody removes, moves or replaces it, and
whatever is written from then on goes away with the process. So each connection opens a file that
exists and is the one that was opened first, and the writer compares its open files with those that
stand at their paths at each commit: the database, its write-ahead log, and the index of that, by
which connections see what others write. Where that one is removed, later connections make another,
and two that go by two indexes overwrite each other.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.engine import Connection

from domain.language.errors import LogFileReplaced

# What the write-ahead log keeps of the disk once it is in the database: twice what it comes to
# between two of the checkpoints that SQLite makes every 1,000 pages.
JOURNAL_BYTES_MAX: Final = 8 * 1024 * 1024
_OWNER_ONLY: Final = 0o600
_BESIDE: Final = ("-wal", "-shm")
_OPENED: Final = "fairlog_opened"  # in a connection's `info`: what stood beside the file then

_Identity = tuple[int, int]  # device and inode


class SqliteFile:
    """One a `Database`. `path` is taken as it is seen from the folder of this moment."""

    def __init__(self, path: str) -> None:
        self.path: Path = Path(path).absolute()
        self._opened: _Identity | None = None

    @property
    def is_new(self) -> bool:
        """Nobody has made it yet."""
        return self._opened is None and not self.path.exists()

    def create(self) -> None:
        """Make an empty file that its owner alone can read, unless there is one.

        SQLite gives the write-ahead log and its index the rights that the file has. Where it cannot
        be made, the connection that follows says why.
        """
        if self._opened is None:
            real = self.path.resolve()  # a link may point to where nothing is yet
            with contextlib.suppress(OSError):  # it exists, most of the time
                os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ONLY))

    def connect(self, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 (those of sqlite3)
        """Open the file, which has to exist. Raises `LogFileReplaced`, and what sqlite3 raises."""
        self._check_same()
        connection: sqlite3.Connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=rw", uri=True, **options
        )
        try:
            self._check_same()  # nobody has put another one there meanwhile
        except LogFileReplaced:
            connection.close()
            raise
        if self._opened is None:
            self._opened = _identity(self.path)
        return connection

    def check_in_place(self, connection: Connection) -> None:
        """Check that what a transaction of this connection writes is what others will read.

        Raises `LogFileReplaced`; the connection should be kept, so that the
        service goes on when the file is put back.
        """
        self._check_same()
        beside = [_beside(self.path, suffix) for suffix in _BESIDE]
        found = [_identity(one) for one in beside]
        opened = connection.info.setdefault(_OPENED, found)
        for path, now, before in zip(beside, found, opened, strict=True):
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
    """The size of the write-ahead log; 0: there is none."""
    try:
        return _beside(path, "-wal").stat().st_size
    except OSError:
        return 0


def _beside(path: Path, suffix: str) -> Path:
    real = path.resolve() if path.is_symlink() else path  # SQLite puts them beside the file itself
    return real.with_name(f"{real.name}{suffix}")


def _identity(path: Path) -> _Identity | None:
    """None: there is no such file, or it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
