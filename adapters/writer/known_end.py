"""The end of the log as one writer knows it, held against the database that it is connected to.

A replica that was promoted may lack the latest events, and a backup that was restored does. To go
on from there would give their positions to other events, and nobody would notice. A node of a
cluster that is a moment behind looks the same, so nothing is reported as lost at once.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import lost_events
from adapters.log.event_log import SqlEventLog
from domain.decisions.ports import Head
from domain.language.errors import EventsLost
from domain.language.events import EventLost, Recorded

EVENTS_KEPT: Final = 20_000  # the latest ones that this writer wrote, some 20 MB at most
REPORTS_SECONDS: Final = 1.0  # between two looks for what other writers have reported
LAG_SECONDS_MAX: Final = 3.0  # what is missing for longer is lost


class KnownEvent(Struct, frozen=True):
    """The latest event that a writer has written or seen."""

    position: int
    hash: bytes  # of the chain up to it


class KnownEnd:
    """The end of the log that one writer knows."""

    def __init__(self, log: SqlEventLog) -> None:
        self.latest: KnownEvent | None = None  # None: none yet
        self._log = log
        self._kept: deque[Recorded] = deque(maxlen=EVENTS_KEPT)
        self._compared_with: Connection | None = None  # one connection has one log
        self._looked_at = 0.0  # for reports, time.monotonic()
        self._missing_since: float | None = None  # time.monotonic(); None: nothing is missing
        self._reported: tuple[int, int] | None = None  # by this writer: end of the log, known end
        self._reported_at = 0.0  # or tried to, time.monotonic()

    def check(self, connection: Connection, head: Head) -> bool:
        """Return False if the log lacks events that were known, and an operator has accepted that.

        Raises `EventsLost` if the log does not have the event that is known, or has another one in
        its place, or if another writer has reported so. Needs the head lock.
        """
        try:
            has_all = self._check(connection, head)
        except EventsLost:
            self._compared_with = None
            if self._missing_since is None:
                self._missing_since = time.monotonic()
            raise
        self._missing_since = None
        return has_all

    def _check(self, connection: Connection, head: Head) -> bool:
        known = self.latest
        if known is not None and head.position < known.position:
            raise EventsLost(head.position, known.position)
        has_all = True
        if self._compared_with is not connection:
            has_all = known is None or self._has(connection, head, known)
            if known is not None and not has_all and not self._is_given_up(connection, known):
                raise EventsLost(head.position, known.position)
            self._look_for_reports(connection, head)
            self._compared_with = connection
        elif time.monotonic() - self._looked_at > REPORTS_SECONDS:
            self._look_for_reports(connection, head)
        if not has_all:
            self._kept.clear()
            self._reported = None
        self.note(head)
        return has_all

    def note(self, head: Head, written: Sequence[Recorded] = ()) -> None:
        """Note the head, which the log has had, and the events up to it that this writer wrote."""
        if head.position:
            self.latest = KnownEvent(head.position, head.hash)
        self._kept.extend(written)

    def is_report_due(self) -> bool:
        """Return True if events have been missing for so long that they are lost, and no report of
        them was tried just now.
        """
        if self._missing_since is None:
            return False
        now = time.monotonic()
        is_lost = now - self._missing_since >= LAG_SECONDS_MAX
        return is_lost and now - self._reported_at >= REPORTS_SECONDS

    def report(self, connection: Connection) -> None:
        """Report what the log does not have, for whoever accepts it, in a transaction."""
        known = self.latest
        self._reported_at = time.monotonic()
        with connection.begin():
            at = self._log.lock_head(connection).position
            if known is None or at >= known.position:
                return
            has_reported = self._reported == (at, known.position)
            # The reports may be gone: a backup without them was restored, or they were deleted.
            if has_reported and lost_events.latest_lost(connection, at) >= known.position:
                return
            lost_events.report(connection, at, known.position, list(self._kept))
        self._reported = at, known.position

    def _look_for_reports(self, connection: Connection, head: Head) -> None:
        reported = lost_events.latest_lost(connection, head.position)
        if reported > head.position:
            raise EventsLost(head.position, reported)
        self._looked_at = time.monotonic()

    def _has(self, connection: Connection, head: Head, known: KnownEvent) -> bool:
        return known.position <= head.archived or (
            self._log.hash_at(connection, known.position) == known.hash
        )

    def _is_given_up(self, connection: Connection, known: KnownEvent) -> bool:
        found = self._log.read(connection, known.position - 1, 1)
        return bool(found) and isinstance(found[0].event, EventLost)
