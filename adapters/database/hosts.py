"""The hosts of a database that has several: a primary and its replicas, or the nodes of a cluster.

New connections go to one of them, until it does not answer, is read-only, or is no ready node of
its cluster. Then the next one in the order of the URL is used, and so on in a circle. A host that
came back is not used again before the one in use fails, or the process starts anew: a switch costs
the callers of that moment an error, and only its operator knows that the host has all of the data.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any, Final, TypeVar

import structlog
from pymysql import MySQLError, OperationalError
from sqlalchemy.engine import URL

from adapters.database.faults import NODE_NOT_READY, explained

C = TypeVar("C")  # a connection of the driver

DEFAULT_PORT: Final = 3306
_log = structlog.get_logger()


class Hosts:
    """The hosts of one database, as one process uses them. Any thread may connect."""

    def __init__(self, urls: Sequence[URL], switched: Callable[[], None]) -> None:
        """`switched` is called when connections to an earlier host are to be closed."""
        self._addresses = [(url.host or "localhost", url.port or DEFAULT_PORT) for url in urls]
        # All hosts with their ports, in the order of the URL.
        self.names: Final = [f"{host}:{port}" for host, port in self._addresses]
        self.switches = 0
        self._switched = switched
        self._current = 0
        self._is_left = False  # the next connection begins with the next host
        self._lock = threading.Lock()

    @property
    def current(self) -> str:
        """The host in use, with its port."""
        return self.names[self._current]

    def leave(self) -> None:
        """Use the next host that can be used: the current one lacks events that are known."""
        self._is_left = True

    def use(self, name: str, why: str) -> None:
        """Use the host of this name."""
        self._switch(self._current, self.names.index(name), why)

    def connect(self, open_connection: Callable[[str, int], C]) -> C:
        """Connect to the current host, or to the next one that can be used.

        If none can be written, one that can be read is used. Raises the driver's error if there is
        none either.
        """
        before, is_left = self._current, self._is_left
        self._is_left = False
        number, connection, why = self._open_next(before, open_connection, is_left=is_left)
        self._switch(before, number, why)
        if number != self._current:  # another thread has changed it meanwhile
            _close(connection)
            return self.connect(open_connection)
        return connection

    def _open_next(
        self, current: int, open_connection: Callable[[str, int], C], *, is_left: bool
    ) -> tuple[int, C, str]:
        """Return a host's number, a connection to it, and why it is not the one before."""
        why = "It lacks events." if is_left else ""
        readable: tuple[int, C] | None = None
        failed: Exception | None = None
        for step in range(len(self._addresses)):
            number = (current + is_left + step) % len(self._addresses)
            try:
                connection = open_connection(*self._addresses[number])
                is_read_only = _is_read_only(connection)
            except (MySQLError, OSError) as error:
                failed = failed or error
                why = why or explained(error)
                continue
            if not is_read_only:
                if readable is not None:
                    _close(readable[1])
                return number, connection, why
            why = why or "It is read-only."
            if readable is None:
                readable = (number, connection)
            else:
                _close(connection)
        if readable is None:
            assert failed is not None
            raise failed
        return *readable, why

    def _switch(self, before: int, number: int, why: str) -> None:
        with self._lock:
            if number == before or self._current != before:
                return
            self._current = number
            self.switches += 1
        was, now = self.names[before], self.names[number]
        _log.warning("database_host_changed", was=was, now=now, reason=why)
        self._switched()


def _is_read_only(connection: Any) -> bool:  # noqa: ANN401 (the driver's)
    """Return True if a host can be read, but not written. Raises an error if it cannot be read:
    then the connection is closed.
    """
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN"
                " ('read_only', 'super_read_only', 'wsrep_on')"
            )
            variables = dict(cursor.fetchall())
            cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name = 'wsrep_ready'")
            status = dict(cursor.fetchall())
        if variables.get("wsrep_on") == "ON" and status.get("wsrep_ready") != "ON":
            raise OperationalError(NODE_NOT_READY, "the node is not ready")
    except MySQLError:
        _close(connection)
        raise
    return {variables.get("read_only", "OFF"), variables.get("super_read_only", "OFF")} != {"OFF"}


def _close(connection: Any) -> None:  # noqa: ANN401 (the driver's)
    with suppress(Exception):
        connection.close()
