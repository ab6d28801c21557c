"""The users whose places in the line have to be worked out again, without an event of theirs.

A throttle's window has ended, or a plan was changed. Claims do the same for the users that the
writer has in memory; this finds the others.
"""

from typing import Final

from sqlalchemy.engine import Connection

from adapters.log.event_log import HeadReading
from adapters.log.event_pages import latest_of
from domain.decisions.batch import USERS_UPDATED_PER_BATCH_MAX
from domain.language.identifiers import PlanName, UserId
from domain.limits.limits import Limits
from entrypoints.service.due_jobs import ANY_TIME, SOON_MICROS
from projections.inline.windows import WindowQueries
from projections.queries.line_queries import LineQueries

USERS_PER_PAGE: Final = USERS_UPDATED_PER_BATCH_MAX  # others wait for a page, as for a batch
_NO_USER: Final = UserId("")


class HeldUsers:
    """Reads such users a page at a time. Use it from one caller at a time."""

    def __init__(self, line: LineQueries, windows: WindowQueries) -> None:
        self._line = line
        self._windows = windows
        self.has_more = False  # than the last page
        self.is_quiet = False  # nothing was written lately, and no window ends soon
        self._head = (-1, -1)  # position and version when it was last read
        self._limits_changed = 0  # position of the latest change of limits, as far as is known
        self._plans: dict[PlanName, Limits] = {}
        # After this user comes the next of those who may be concerned by plans; None: none does.
        # At first they are those who are held, since another process may have changed a plan.
        self._next_after: UserId | None = _NO_USER
        self._only_held = True
        self._earliest = 0  # when a window ends, Unix time in microseconds; 0: not known

    def next_page(self, connection: Connection, head: HeadReading) -> list[UserId]:
        """Return some users; none if there are none now."""
        has_moved = (head.position, head.version) != self._head
        self._head = (head.position, head.version)
        if has_moved:
            self._earliest = 0
            self._look_at_plans(connection)
        users = self._of_plans(connection)
        if not users and head.clock.now >= self._earliest:
            users = self._line.users_to_update(connection, head.clock.now, USERS_PER_PAGE)
            if not users:
                self._earliest = self._line.next_update(connection) or ANY_TIME
        self.has_more = self._next_after is not None or len(users) == USERS_PER_PAGE
        is_near = head.clock.now + SOON_MICROS >= self._earliest
        self.is_quiet = not (self.has_more or users or is_near)
        return users

    def _look_at_plans(self, connection: Connection) -> None:
        """Begin with all users in line if the limits of starts of a plan have changed."""
        changed = latest_of(connection, ("LimitChanged", "PlanDeleted"))
        if changed == self._limits_changed:
            return
        is_first = self._limits_changed == 0
        self._limits_changed = changed
        plans = {
            name: Limits(running=one.running, throttle=one.throttle, paused=one.paused)
            for name, one in self._windows.limits_of(connection, []).plans.items()
        }
        if plans != self._plans and not is_first:
            self._next_after, self._only_held = _NO_USER, False
        self._plans = plans

    def _of_plans(self, connection: Connection) -> list[UserId]:
        if self._next_after is None:
            return []
        users = self._line.waiting_users(
            connection, self._next_after, USERS_PER_PAGE, only_held=self._only_held
        )
        self._next_after = users[-1] if len(users) == USERS_PER_PAGE else None
        return users
