"""The throttles in use: which jobs started in their current windows, and how many more may."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.language.identifiers import UserId
from domain.limits.limits import Limits, LimitSettings, Subject
from entrypoints.dashboard.context import DashboardContext
from entrypoints.service.limit_views import ThrottleView, throttle_view

THROTTLES_READ: Final = 300  # counts of starts, those of resources and kinds first
_HELD_READ: Final = 20  # users whose windows are used up
_SHOWN: Final = 30
_FOREVER: Final = 2**62


class ThrottleInUse(Struct, frozen=True):
    subject: Subject
    throttle: ThrottleView
    started: int  # in the current window

    @property
    def name(self) -> str:
        return " · ".join(name for name in self.subject if name)


def read_throttles(
    context: DashboardContext, connection: Connection, now: datetime, further: Sequence[UserId]
) -> list[ThrottleInUse]:
    """Return throttles in whose current windows jobs have started, the fullest first.

    They are those of the first THROTTLES_READ counts, of the users whose windows are used up and
    end first, and of `further` users, since users with throttles may be very many.
    """
    line = context.fairlog.line
    starts = line.first_starts(connection, THROTTLES_READ)
    held = line.users_to_update(connection, _FOREVER, _HELD_READ)
    named = {Subject(user_id) for user_id in (*held, *further)}
    starts |= line.starts(connection, named - starts.keys())
    users = {subject.user_id for subject in starts if subject.user_id}
    settings = context.fairlog.windows.limits_of(connection, users)
    found = [
        ThrottleInUse(subject, view, view.started)
        for subject, counted in starts.items()
        if (view := throttle_view(_limits(settings, subject), counted, now)) and view.started
    ]
    found.sort(key=lambda one: (-one.started / one.throttle.limit, one.subject))
    return found[:_SHOWN]


def _limits(settings: LimitSettings, subject: Subject) -> Limits:
    """Return the limits that hold for a subject, which follow from a plan or a prefix too."""
    if subject.resource:
        return settings.of_resource(subject.resource)
    if subject.user_id and not subject.kind:
        return settings.of_user(subject.user_id)
    return settings.of(subject)
