"""The lock that proves an earlier server on the same SQLite file to be dead.

The operating system lets go of it when its process ends, however that happens.
"""

import fcntl
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from adapters.processes.forks import keep_from_children
from domain.language.errors import FairlogError


class ServerLock:
    """Held as long as this process lives or until `release`."""

    def __init__(self, database_file: Path) -> None:
        self._path = database_file.with_name(database_file.name + ".lock")
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises `FairlogError` while another server has it."""
        self._path.touch(mode=0o600)  # for its owner alone, unless it is there
        file = self._path.open("a")
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
