"""Limits: the current windows, who is refused, and the limits of one user."""

from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import Kind, UserId
from domain.limits.rate_limits import WindowState, window_start
from entrypoints.dashboard.context import HOUR_SECONDS, DashboardContext, ShownMoment
from projections.activity.metrics import highest

_USERS_SHOWN: Final = 20
_REFUSED_SHOWN: Final = 20
_NO_KIND: Final = Kind("")


class UserWindow(Struct, frozen=True):
    user_id: UserId
    window: WindowState
    running: int | None  # the cap on jobs running at once


@get("/limits")
async def limits(
    request: Request[Any, Any, Any],
    context: NamedDependency[DashboardContext],
    user: FromQuery[str] = "",
) -> Response[str]:
    problem = None
    wanted: UserId | None = None
    if user:
        try:
            wanted = validation.user_id(user)
        except InvalidInput as error:
            problem = str(error)
    return await context.show(
        request,
        "limits",
        "Limits",
        lambda connection, at: {
            **_read(context, connection, at),
            "wanted": _users(context, connection, at, [wanted])[0] if wanted is not None else None,
            "line": context.fairlog.line.user(connection, wanted) if wanted is not None else None,
            "problem": problem,
        },
        user=user,
    )


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
