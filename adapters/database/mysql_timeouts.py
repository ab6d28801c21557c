"""A PyMySQL connection that notices early when its server does not answer at all.

A query may take a minute; a greeting and a ping may not, and PyMySQL has one time-out for all
three. A server that is frozen, or whose network fails silently, would block every caller for that
minute.
"""

from typing import Any, Final, Literal

from adapters.database.mysql_driver import DriverConnection

GREETING_SECONDS_MAX: Final = 2.0


class ShortTimeoutConnection(DriverConnection):
    """Waits for a greeting or a ping no longer than GREETING_SECONDS_MAX."""

    def connect(self, sock: Any = None) -> None:  # noqa: ANN401 (as in PyMySQL)
        with self.read_timeout_at_most(GREETING_SECONDS_MAX):
            super().connect(sock)

    def ping(  # type: ignore[override]  # it never reconnects
        self,
        reconnect: Literal[False] | None = False,  # noqa: FBT002 (as in PyMySQL)
    ) -> None:
        with self.read_timeout_at_most(GREETING_SECONDS_MAX):
            super().ping(reconnect)
