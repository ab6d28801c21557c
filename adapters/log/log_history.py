"""The log as those read it who ask about the past: events by filter and by job, keys, bodies.

`LiveHistory` reads the database alone. `adapters.archive.whole_log` has the same methods over
segments and database together.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy.engine import Connection

from adapters.log import audit_log, histories, key_events
from adapters.log.audit_log import EventFilter, StoredEvent
from adapters.log.event_log import SqlEventLog
from domain.access.keys import ApiKeys
from domain.audit.system_state import SystemState
from domain.decisions.ports import Cut
from domain.language.events import Recorded
from domain.language.identifiers import JobId
from domain.log.merkle import Subtree


class LogHistory(Protocol):
    """See the functions of the same names in `adapters.log`."""

    def position(self, connection: Connection) -> int: ...

    def cut(self, connection: Connection) -> Cut:
        """Return the end of the archived part that is not read."""

    def read(self, connection: Connection, after: int, limit: int) -> list[Recorded]: ...

    def hash_at(self, connection: Connection, position: int) -> bytes | None: ...

    def find(
        self, connection: Connection, wanted: EventFilter, after: int, limit: int
    ) -> list[StoredEvent]: ...

    def find_newest(
        self, connection: Connection, wanted: EventFilter, below: int | None, limit: int
    ) -> list[StoredEvent]: ...

    def position_before_newest(
        self, connection: Connection, wanted: EventFilter, below: int, count: int
    ) -> int: ...

    def first_at(self, connection: Connection, moment: datetime) -> int: ...

    def bodies_at(self, connection: Connection, positions: Sequence[int]) -> dict[int, bytes]: ...

    def changes_of(
        self, connection: Connection, job_ids: Sequence[JobId], up_to: int
    ) -> Iterator[Recorded]: ...

    def heartbeats(self, connection: Connection, after: int, up_to: int) -> Iterator[Recorded]: ...

    def newest_first(
        self,
        connection: Connection,
        type_name: str,
        after: int,
        up_to: int,
        *,
        is_frequent: bool = False,
    ) -> Iterator[Recorded]: ...

    def state_by(self, position: int) -> SystemState | None:
        """Return a state of the system at or before a position that is nearer than those of the
        database; None if there is none.
        """

    def keys_at(self, connection: Connection, position: int) -> ApiKeys: ...

    def tree(self, live: Subtree) -> Subtree:
        """Return the subtrees of the whole log, given those that the database has."""


class LiveHistory:
    """The history that the database has."""

    find = staticmethod(audit_log.find)
    find_newest = staticmethod(audit_log.find_newest)
    position_before_newest = staticmethod(audit_log.position_before_newest)
    first_at = staticmethod(audit_log.first_at)
    bodies_at = staticmethod(audit_log.bodies_at)
    changes_of = staticmethod(histories.changes_of)
    heartbeats = staticmethod(histories.heartbeats)
    newest_first = staticmethod(histories.newest_first)
    keys_at = staticmethod(key_events.keys_at)

    def __init__(self, log: SqlEventLog) -> None:
        self.position = log.position
        self.cut = log.cut
        self.read = log.read
        self.hash_at = log.hash_at

    def state_by(self, _position: int) -> SystemState | None:
        return None

    def tree(self, live: Subtree) -> Subtree:
        return live
