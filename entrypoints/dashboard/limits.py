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
from domain.language.events import Scope
from domain.language.identifiers import GLOBAL, Kind, PlanName, ResourceName, UserId
from domain.limits.limits import NONE, Subject
from domain.limits.rate_limits import WindowState, window_start
from entrypoints.dashboard.context import HOUR_SECONDS, DashboardContext, ShownMoment
from entrypoints.dashboard.rendering import is_from_page
from projections.activity.metrics import highest

_USERS_SHOWN: Final = 20
_REFUSED_SHOWN: Final = 20
_SETTINGS_READ: Final = 200
_KINDS_OFFERED: Final = 200
_SCOPES: Final = {Scope.USER: "user", Scope.KIND: "kind", Scope.GLOBAL: "all"}
_AFTER: Final = ("after_user", "after_kind", "after_resource", "after_plan")


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
    after_resource: FromQuery[str] = "",
    after_plan: FromQuery[str] = "",
) -> Response[str]:
    """Show limits. The `after_…` parameters are the last subject of the page before."""
    problem = None
    wanted: UserId | None = None
    after: Subject | None = None
    try:
        wanted = validation.user_id(user) if user else None
        if after_user or after_kind or after_resource or after_plan:
            after = Subject(
                validation.user_id(after_user) if after_user else GLOBAL,
                validation.kind(after_kind) if after_kind else Kind(""),
                validation.resource_setting(after_resource) if after_resource else ResourceName(""),
                validation.plan_name(after_plan) if after_plan else PlanName(""),
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
    """Read a page of the limits that are set."""
    found = context.fairlog.windows.set_limits(connection, after, _SETTINGS_READ)
    shown = [
        Setting(
            _SCOPES[subject.scope],
            subject.user_id or subject.kind,
            limits.submissions,
            limits.running,
        )
        for subject, limits in found
        if subject.scope in _SCOPES and limits != NONE
    ]
    is_cut = len(found) == _SETTINGS_READ
    return {
        "settings": shown,
        "is_first_page": after is None,
        "following": dict(zip(_AFTER, found[-1][0], strict=True)) if is_cut else None,
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
    windows, limits = context.fairlog.windows.load(connection, [], at.now)
    found = _users(context, connection, at, users)
    found.sort(key=lambda one: (one.window.remaining, -one.window.used))
    return {
        "everyone": windows.global_window(limits, policy, at.now),
        "users": found[:_USERS_SHOWN],
        "refused": highest(leading.refused, _REFUSED_SHOWN),
        "default": policy.user_limit,
    }


def _users(
    context: DashboardContext, connection: Connection, at: ShownMoment, users: list[UserId]
) -> list[UserWindow]:
    policy = context.fairlog.policy
    windows, limits = context.fairlog.windows.load(connection, users, at.now)
    return [
        UserWindow(
            user_id,
            windows.user_window(limits, user_id, policy, at.now),
            limits.of_user(user_id).running,
        )
        for user_id in users
    ]
