"""A PyMySQL connection that learns soon when its server does not answer at all.

A query may take a minute; a greeting and a ping may not, and PyMySQL has one time-out for all
three. A server that is frozen, or cut off without a word, would hold every caller for that minute.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

from pymysql.connections import Connection

GREETING_SECONDS_MAX: Final = 2.0


class ShortTimeoutConnection(Connection):
    """Waits for a greeting or a ping no longer than GREETING_SECONDS_MAX."""

    _read_timeout: float | None
    _sock: socket.socket | None

    def fileno(self) -> int:
        """Of its socket; below 0: it is closed."""
        return -1 if self._sock is None else self._sock.fileno()

    def connect(self, sock: Any = None) -> None:  # noqa: ANN401 (as in PyMySQL)
        with self._impatient():
            super().connect(sock)

    def ping(  # type: ignore[override]  # it never reconnects
        self,
        reconnect: Literal[False] | None = False,  # noqa: FBT002 (as in PyMySQL)
    ) -> None:
        with self._impatient():
            super().ping(reconnect)

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        patience = self._read_timeout
        self._read_timeout = min(patience or GREETING_SECONDS_MAX, GREETING_SECONDS_MAX)
        try:
            yield
        finally:
            self._read_timeout = patience
