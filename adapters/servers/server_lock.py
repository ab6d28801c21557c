"""The lock that proves that no other server runs on the same SQLite file.

The operating system releases it when its process ends, however that happens.
"""

import fcntl
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from domain.language.errors import FairlogError
from fairlog_client.processes.forks import keep_from_children


class ServerLock:
    """A lock that is held until `release` or the end of this process."""

    def __init__(self, database_file: Path) -> None:
        self._path = database_file.with_name(database_file.name + ".lock")
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock. Raises `FairlogError` while another server has it."""
        try:
            self._path.touch(mode=0o600)  # only for its owner, unless it exists
            file = self._path.open("a")
        except OSError as error:
            raise FairlogError(
                f"{self._path} cannot be written ({error.strerror}): give this account the right "
                "to write in the database's folder."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise FairlogError(
                f"Another server already runs on {self._path.with_suffix('').name}; stop it, or "
                "use MySQL or MariaDB for several servers."
            ) from None
        self._file = file
        keep_from_children(self)

    def descriptors(self) -> Iterable[int]:
        return [] if self._file is None else [self._file.fileno()]

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
