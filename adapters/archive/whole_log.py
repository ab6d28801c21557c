"""The log as a whole: what is archived from segments, what comes after from the database.

The methods are those of `adapters.log.log_history.LogHistory`, with the same answers as before the
archive. Rows of archived events that are still in the database are not read.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.archive.archived_log import ArchivedLog
from adapters.log import audit_log
from adapters.log.audit_log import EventFilter, StoredEvent
from adapters.log.event_log import SqlEventLog
from adapters.log.histories import CHANGE_NAMES, HEARTBEAT, changes_of, newest_first
from adapters.log.key_events import keys_after
from domain.access.keys import ApiKeys
from domain.audit.system_state import SystemState
from domain.decisions.ports import Cut
from domain.language.events import Recorded
from domain.language.identifiers import POSITION_MAX, JobId
from domain.log.merkle import Subtree, node
from domain.log.segments import subtrees
from domain.log.stored_log import leaf_of

_LEAVES_PER_READ: Final = 1_024


class WholeLog:
    """Reads segments and the database as one log."""

    def __init__(self, log: SqlEventLog, archived: ArchivedLog) -> None:
        self._log = log
        self._archived = archived
        self.position = log.position

    def cut(self, _connection: Connection) -> Cut:
        return Cut()

    def read(self, connection: Connection, after: int, limit: int) -> list[Recorded]:
        found = self._archived.events(after, limit)
        if len(found) < limit:
            found += self._log.read(connection, self._live_after(after), limit - len(found))
        return found

    def hash_at(self, connection: Connection, position: int) -> bytes | None:
        if 0 < position <= self._archived.end:
            return self._archived.hash_at(position)
        return self._log.hash_at(connection, position)

    def find(
        self, connection: Connection, wanted: EventFilter, after: int, limit: int
    ) -> list[StoredEvent]:
        wanted, after, below = self._bounds(connection, wanted, after)
        up_to = min(self._archived.end, below - 1)
        found = list(islice(self._archived.matching(wanted, after, up_to), limit))
        if len(found) < limit:
            rest = limit - len(found)
            found += audit_log.find(connection, wanted, self._live_after(after), rest)
        return [event for event in found if event.position < below]

    def find_newest(
        self, connection: Connection, wanted: EventFilter, below: int | None, limit: int
    ) -> list[StoredEvent]:
        wanted, after, top = self._bounds(connection, wanted, 0, below)
        live_after, found = self._live_after(after), list[StoredEvent]()
        if top > live_after + 1:
            live = audit_log.find_newest(connection, wanted, top, limit)
            found = [event for event in live if event.position > live_after]
        up_to = min(self._archived.end, top - 1)
        older = self._archived.matching(wanted, after, up_to, newest_first=True)
        return found + list(islice(older, limit - len(found)))

    def position_before_newest(
        self, connection: Connection, wanted: EventFilter, below: int, count: int
    ) -> int:
        wanted, after, top = self._bounds(connection, wanted, 0, below)
        live_after = self._live_after(after)
        if top > live_after + 1:
            found = audit_log.position_before_newest(connection, wanted, top, count)
            if found > live_after:
                return found
            count -= audit_log.count_between(connection, wanted, live_after, top)
        up_to = min(self._archived.end, top - 1)
        older = self._archived.matching(wanted, after, up_to, newest_first=True)
        event = next(islice(older, count, None), None)
        return 0 if event is None else event.position

    def first_at(self, connection: Connection, moment: datetime) -> int:
        found = self._archived.first_at(moment)
        if found is None:
            return audit_log.first_at(connection, moment, self._archived.end)
        return found

    def bodies_at(self, connection: Connection, positions: Sequence[int]) -> dict[int, bytes]:
        live = [one for one in positions if one > self._archived.end]
        return self._archived.bodies(positions) | audit_log.bodies_at(connection, live)

    def changes_of(
        self, connection: Connection, job_ids: Sequence[JobId], up_to: int
    ) -> Iterator[Recorded]:
        yield from self._archived.of_jobs(job_ids, CHANGE_NAMES, up_to)
        for event in changes_of(connection, job_ids, up_to):
            if event.position > self._archived.end:
                yield event

    def heartbeats(self, connection: Connection, after: int, up_to: int) -> Iterator[Recorded]:
        return self.newest_first(connection, HEARTBEAT, after, up_to)

    def newest_first(
        self,
        connection: Connection,
        type_name: str,
        after: int,
        up_to: int,
        *,
        is_frequent: bool = False,
    ) -> Iterator[Recorded]:
        live_after = self._live_after(after)
        yield from newest_first(connection, type_name, live_after, up_to, is_frequent=is_frequent)
        up_to = min(up_to, self._archived.end)
        yield from self._archived.of_types([type_name], after, up_to, newest_first=True)

    def state_by(self, position: int) -> SystemState | None:
        # The database has a state at the end of the archive, and later ones.
        return self._archived.state_by(position) if position < self._archived.end else None

    def keys_at(self, connection: Connection, position: int) -> ApiKeys:
        keys = self._archived.keys_at(position)
        return keys_after(connection, keys, position) if position > self._archived.end else keys

    def tree(self, live: Subtree) -> Subtree:
        return WholeTree(self._archived, live)

    def _live_after(self, after: int) -> int:
        return max(after, self._archived.end)

    def _bounds(
        self, connection: Connection, wanted: EventFilter, after: int, below: int | None = None
    ) -> tuple[EventFilter, int, int]:
        """Return a filter with its times as positions, both exclusive."""
        top = POSITION_MAX if below is None else below
        if wanted.since is not None:
            after = max(after, self.first_at(connection, wanted.since) - 1)
        if wanted.until is not None:
            top = min(top, self.first_at(connection, wanted.until))
        return replace(wanted, since=None, until=None), after, top


class WholeTree:
    """Hashes of complete subtrees (`domain.log.merkle.Subtree`) of the whole log.

    Those of archived events follow from the roots that segments name, or from one segment's events;
    the others are the live tree's.
    """

    def __init__(self, archived: ArchivedLog, live: Subtree) -> None:
        self._archived = archived
        self._live = live
        self._known = {
            place: bytes.fromhex(hashed)
            for segment in archived.segments
            for place, hashed in zip(
                subtrees(segment.first, segment.last), segment.roots, strict=True
            )
        }

    def __call__(self, level: int, index: int) -> bytes:
        """Return the hash of the subtree of 2**level leaves at an index."""
        if index << level >= self._archived.end:
            return self._live(level, index)
        found = self._known.get((level, index))
        if found is None:
            if level == 0:
                return self._leaf(index)
            found = node(self(level - 1, 2 * index), self(level - 1, 2 * index + 1))
            self._known[level, index] = found
        return found

    def _leaf(self, index: int) -> bytes:
        """Return a leaf hash; its neighbours, which a proof needs too, are computed with it."""
        start = index - index % _LEAVES_PER_READ
        for leaf in map(leaf_of, self._archived.rows(start, _LEAVES_PER_READ)):
            self._known[0, leaf.position - 1] = leaf.hash
        return self._known[0, index]
