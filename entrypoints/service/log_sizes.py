"""The size of the database, read at most once a minute by each process."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from sqlalchemy.engine import Connection

from adapters.log.log_size import LogSize, read_size

CACHED_SECONDS: Final = 60.0


class LogSizes:
    """Reads the size, for `/metrics` and the dashboard. Its methods may be called in any thread."""

    def __init__(self, now: Callable[[Connection], datetime], limit_bytes: int | None) -> None:
        """`now` reads the log's time. `limit_bytes`: None: there is no limit."""
        self._now = now
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._known: LogSize | None = None
        self._read_at = 0.0

    def read(self, connection: Connection) -> LogSize:
        """Return the size, at most `CACHED_SECONDS` old."""
        with self._lock:
            known, read_at = self._known, self._read_at
        if known is not None and time.monotonic() < read_at + CACHED_SECONDS:
            return known
        return self.read_anew(connection)

    def read_anew(self, connection: Connection) -> LogSize:
        """Return the size as it is now."""
        found = read_size(connection, self._now(connection), self._limit)
        with self._lock:
            self._known, self._read_at = found, time.monotonic()
        return found
