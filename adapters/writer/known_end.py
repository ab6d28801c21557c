"""The end of the log as one writer knows it, held against the database that it is connected to.

A replica that was promoted may lack the latest events, and a backup that was restored does. To go
on from there would give their positions to other events, and nobody would notice. A node of a
cluster that is a moment behind looks the same; the writer tries again for some seconds.
"""

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log.event_log import SqlEventLog
from domain.decisions.ports import Head
from domain.language.errors import EventsLost


class KnownEvent(Struct, frozen=True):
    """The latest event that a writer has written or seen."""

    position: int
    hash: bytes  # of the chain up to it


class KnownEnd:
    """The end of the log that one writer knows."""

    def __init__(self, log: SqlEventLog) -> None:
        self.latest: KnownEvent | None = None  # None: none yet
        self._log = log
        self._compared_with: Connection | None = None  # one connection has one log

    def check(self, connection: Connection, head: Head) -> None:
        """Raise `EventsLost` if the log does not have the event that is known, or another one in
        its place. Needs the head lock.
        """
        known = self.latest
        if known is not None and head.position < known.position:
            raise EventsLost(head.position, known.position)
        if self._compared_with is not connection:
            if known is not None and not self._has(connection, head, known):
                raise EventsLost(head.position, known.position)
            self._compared_with = connection
        self.note(head)

    def note(self, head: Head) -> None:
        """Note the head, which the log has had."""
        if head.position:
            self.latest = KnownEvent(head.position, head.hash)

    def _has(self, connection: Connection, head: Head, known: KnownEvent) -> bool:
        return known.position <= head.archived or (
            self._log.hash_at(connection, known.position) == known.hash
        )
