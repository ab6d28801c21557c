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
from pymysql import MySQLError
from sqlalchemy.engine import URL

from adapters.database.faults import explained

C = TypeVar("C")  # a connection of the driver

DEFAULT_PORT: Final = 3306
_log = structlog.get_logger()


class Hosts:
    """The hosts of one database, as one process uses them. Any thread may connect."""

    def __init__(self, urls: Sequence[URL], switched: Callable[[], None]) -> None:
        """`switched` is called when connections to an earlier host are to be closed."""
        self.addresses: Final = tuple(
            (url.host or "localhost", url.port or DEFAULT_PORT) for url in urls
        )
        self.switches = 0
        self._switched = switched
        self._current = 0
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """All hosts with their ports, in the order of the URL."""
        return [f"{host}:{port}" for host, port in self.addresses]

    @property
    def current(self) -> str:
        """The host that new connections go to, with its port."""
        return self.names[self._current]

    def leave(self) -> None:
        """Use the next host: the current one is behind what was written."""
        self._switch(self._current, (self._current + 1) % len(self.addresses), "it is behind")

    def connect(self, open_connection: Callable[[str, int], C]) -> C:
        """Connect to the current host, or to the next one that can be used.

        If there is none, a connection to one that can only be read is returned. Raises the driver's
        error if no host answers.
        """
        first, why = self._current, ""
        readable: list[C] = []
        failed: Exception | None = None
        for step in range(len(self.addresses)):
            number = (first + step) % len(self.addresses)
            try:
                connection = open_connection(*self.addresses[number])
            except (MySQLError, OSError) as error:
                failed = failed or error
                why = why or explained(error)
                continue
            if (reason := _unusable(connection)) is None:
                for one in readable:
                    _close(one)
                self._switch(first, number, why)
                return connection
            why = why or reason
            readable.append(connection)
        if readable:
            for one in readable[1:]:
                _close(one)
            return readable[0]
        assert failed is not None
        raise failed

    def _switch(self, before: int, number: int, why: str) -> None:
        with self._lock:
            if number == before or self._current != before:
                return
            self._current = number
            self.switches += 1
        was, now = self.names[before], self.names[number]
        _log.warning("database_host_changed", was=was, now=now, reason=why)
        self._switched()


def _unusable(connection: Any) -> str | None:  # noqa: ANN401 (the driver's)
    """Return why a host cannot be used for writing; None if it can."""
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN"
                " ('read_only', 'super_read_only', 'wsrep_on')"
            )
            variables = dict(cursor.fetchall())
            cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name = 'wsrep_ready'")
            status = dict(cursor.fetchall())
    except MySQLError as error:
        return explained(error)
    if {variables.get("read_only", "OFF"), variables.get("super_read_only", "OFF")} != {"OFF"}:
        return "It is read-only."
    if variables.get("wsrep_on") == "ON" and status.get("wsrep_ready") != "ON":
        return "It is not (or no longer) part of its cluster."
    return None


def _close(connection: Any) -> None:  # noqa: ANN401 (the driver's)
    with suppress(Exception):
        connection.close()
