"""PyMySQL's private names behind public ones: nothing else in Fairlog uses any of them.

PyMySQL waits for the answer to each statement, has one read time-out for all it does, and reads the
system's authorities for each connection. To send several commands before reading an answer, to
bound a greeting and to connect in less than 20 ms, its internals are needed. They may change in any
release, so `pyproject.toml` pins one, and a unit test (`test_mysql_driver.py`) names whatever a new
one has changed.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pymysql.connections import Connection
from pymysql.constants import COMMAND
from pymysql.cursors import Cursor


class DriverConnection(Connection):
    """A connection that can send commands and read their answers apart from each other."""

    _next_seq_id: int
    _read_timeout: float | None
    _sock: socket.socket | None
    _unverified: ClassVar[ssl.SSLContext | None] = None

    def fileno(self) -> int:
        """Return the descriptor of the socket; below 0 once it is closed."""
        return -1 if self._sock is None else self._sock.fileno()

    @contextmanager
    def read_timeout_at_most(self, seconds: float) -> Iterator[None]:
        """Wait for each packet no longer than this, or than the connection's own `read_timeout`
        if that is shorter.
        """
        usual = self._read_timeout
        self._read_timeout = min(usual or seconds, seconds)
        try:
            yield
        finally:
            self._read_timeout = usual

    def send_query(self, sql: str) -> None:
        """Send one or more statements without reading the answer."""
        self._execute_command(COMMAND.COM_QUERY, sql)  # type: ignore[attr-defined]  # no stub

    def start_answer(self) -> None:
        """Expect the first packet of an answer: each command's packets are numbered from 1."""
        self._next_seq_id = 1

    def read_packet(self) -> None:
        """Read one packet of an answer. Raises `MySQLError` if it reports an error."""
        self._read_packet()  # type: ignore[no-untyped-call]

    def read_ok_packet(self) -> None:
        """Read the answer to a COMMIT. Raises `MySQLError` if it failed."""
        self._read_ok_packet()  # type: ignore[attr-defined]  # no stub

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:  # noqa: ANN401 (as in PyMySQL)
        """Return the TLS context, the same for all connections that verify no certificate.

        PyMySQL loads the system's authorities even then, in 20 ms of processor time. Files that the
        URL names are read for each connection, since they may have been renewed.
        """
        if sslp or DriverConnection._unverified is None:
            context: ssl.SSLContext = super()._create_ssl_ctx(sslp)  # type: ignore[misc]  # no stub
            if sslp:
                return context
            DriverConnection._unverified = context
        return DriverConnection._unverified


class DriverCursor(Cursor):
    """A cursor whose way of putting parameters into a statement can be overridden: `render`."""

    def driver_connection(self) -> "Connection[Any]":
        """Return the connection. Raises `ProgrammingError` if the cursor is closed."""
        connection: Connection[Any] = self._get_db()  # type: ignore[attr-defined]  # no stub
        return connection

    def render(self, query: str, args: Any) -> str:  # noqa: ANN401 (as in PyMySQL)
        """Return the statement with its parameters, escaped, in place of the placeholders."""
        rendered: str = super()._mogrify(query, args)  # type: ignore[misc]  # no stub
        return rendered

    def _mogrify(self, query: str, args: Any) -> str:  # noqa: ANN401 (as in PyMySQL)
        return self.render(query, args)
