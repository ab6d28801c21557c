"""The end of the log as one writer knows it, held against the database that it is connected to.

A replica that was promoted may lack the latest events, and a backup that was restored does. To go
on from there would give their positions to other events, and nobody would notice. A node of a
cluster that is a moment behind looks the same; the writer tries again for some seconds.
"""

from sqlalchemy.engine import Connection

from adapters.log.event_log import SqlEventLog
from domain.decisions.ports import Head
from domain.language.errors import EventsLost


class KnownEnd:
    """The position and hash of the latest event that a writer has written or seen."""

    def __init__(self, log: SqlEventLog) -> None:
        self._log = log
        self._position = 0
        self._hash = b""
        self._compared_with: Connection | None = None  # one connection has one log

    def check(self, connection: Connection, head: Head) -> None:
        """Raise `EventsLost` if the log does not have the event that is known, or another one in
        its place. Needs the head lock.
        """
        if head.position < self._position:
            raise EventsLost(head.position, self._position)
        if self._compared_with is not connection:
            if head.archived < self._position and not self._has_known_event(connection):
                raise EventsLost(head.position, self._position)
            self._compared_with = connection
        self.note(head)

    def note(self, head: Head) -> None:
        """Note the head, which the log has had."""
        self._position, self._hash = head.position, head.hash

    def _has_known_event(self, connection: Connection) -> bool:
        return not self._position or (self._log.hash_at(connection, self._position) == self._hash)
