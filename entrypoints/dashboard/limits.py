"""Limits: all that are set, the current windows, who is refused, and the limits of one user."""

from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import GLOBAL, Kind, UserId
from domain.limits.rate_limits import Limits, Subject, WindowState, window_start
from entrypoints.dashboard.context import HOUR_SECONDS, DashboardContext, ShownMoment
from entrypoints.dashboard.rendering import is_from_page
from projections.activity.metrics import highest

_USERS_SHOWN: Final = 20
_REFUSED_SHOWN: Final = 20
_SETTINGS_READ: Final = 200
_KINDS_OFFERED: Final = 200
_NO_KIND: Final = Kind("")


class UserWindow(Struct, frozen=True):
    user_id: UserId
    window: WindowState
    running: int | None  # the cap on jobs running at once


class Setting(Struct, frozen=True):
    """The limits that are set for one subject; None: the default."""

    scope: str  # user, kind or all
    name: str  # of the user or kind; empty for all users together
    submissions: int | None  # per window
    running: int | None  # at once; 0: paused

    def values(self, action: str) -> str:
        """Return the fields of the form that does `action` to it, as JSON."""
        fields = {"scope": self.scope, "name": self.name, "action": action}
        return msgspec.json.encode(fields).decode()


@get("/limits")
async def limits(
    request: Request[Any, Any, Any],
    context: NamedDependency[DashboardContext],
    user: FromQuery[str] = "",
    after_user: FromQuery[str] = "",
    after_kind: FromQuery[str] = "",
) -> Response[str]:
    """Show limits. `after_user` and `after_kind` are the last subject of the page before."""
    problem = None
    wanted: UserId | None = None
    after: Subject | None = None
    try:
        wanted = validation.user_id(user) if user else None
        if after_user or after_kind:
            after = (
                validation.user_id(after_user) if after_user else GLOBAL,
                validation.kind(after_kind) if after_kind else _NO_KIND,
            )
    except InvalidInput as error:
        problem = str(error)
    return await context.show(
        request,
        "limits",
        "Limits",
        lambda connection, at: {
            **_read(context, connection, at),
            **_settings(context, connection, after),
            "wanted": _users(context, connection, at, [wanted])[0] if wanted is not None else None,
            "line": context.fairlog.line.user(connection, wanted) if wanted is not None else None,
            "problem": problem,
        },
        user=user,
        kinds=await _kinds(context, request),
    )


async def _kinds(context: DashboardContext, request: Request[Any, Any, Any]) -> list[Kind]:
    """Return the kinds that the form offers. A page that refreshes its live part has it already."""
    if is_from_page(request):
        return []
    found = await context.fairlog.read(
        lambda connection: context.fairlog.line.kinds(connection, _KINDS_OFFERED)
    )
    return [kind for kind, _ in found]


def _settings(
    context: DashboardContext, connection: Connection, after: Subject | None
) -> dict[str, object]:
    """Read a page of the limits that are set. Cleared ones have rows, and are left out."""
    found = context.fairlog.windows.set_limits(connection, after, _SETTINGS_READ)
    shown = [
        Setting(
            "user" if user_id else "kind" if kind else "all",
            user_id or kind,
            limits.submissions,
            limits.running,
        )
        for (user_id, kind), limits in found
        if limits != Limits()
    ]
    is_cut = len(found) == _SETTINGS_READ
    return {
        "settings": shown,
        "is_first_page": after is None,
        "following": {"after_user": found[-1][0][0], "after_kind": found[-1][0][1]}
        if is_cut
        else None,
    }


def _read(context: DashboardContext, connection: Connection, at: ShownMoment) -> dict[str, object]:
    """The windows shown are those of the users that submitted most since they began."""
    policy = context.fairlog.policy
    leading = context.activity.top_counts(connection, at.seconds - HOUR_SECONDS)
    begun = int(window_start(at.now, policy.window_seconds).timestamp())
    lately = context.activity.top_counts(connection, begun)
    busy = [user_id for user_id, _ in highest(lately.submitted, _USERS_SHOWN)]
    refused = [user_id for user_id, _ in highest(lately.refused, _USERS_SHOWN)]
    users = [UserId(user_id) for user_id in dict.fromkeys([*refused, *busy])]
    windows = context.fairlog.windows.load(connection, [], policy, at.now)
    found = _users(context, connection, at, users)
    found.sort(key=lambda one: (one.window.remaining, -one.window.used))
    return {
        "everyone": windows.global_window(policy, at.now),
        "users": found[:_USERS_SHOWN],
        "refused": highest(leading.refused, _REFUSED_SHOWN),
        "default": policy.user_limit,
    }


def _users(
    context: DashboardContext, connection: Connection, at: ShownMoment, users: list[UserId]
) -> list[UserWindow]:
    policy = context.fairlog.policy
    windows = context.fairlog.windows.load(connection, users, policy, at.now)
    found = []
    for user_id in users:
        setting = windows.limits.get((user_id, _NO_KIND))
        found.append(
            UserWindow(
                user_id,
                windows.user_window(user_id, policy, at.now),
                None if setting is None else setting.running,
            )
        )
    return found
