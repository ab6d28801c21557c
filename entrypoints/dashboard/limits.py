"""Limits: all that are set, the current windows, who is refused, and the limits of one user."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import Scope
from domain.language.identifiers import GLOBAL, Kind, PlanName, ResourceName, UserId
from domain.language.limits import Rate
from domain.limits.limits import NONE, Limits, Subject
from domain.limits.rate_limits import WindowState, window_start
from entrypoints.dashboard.context import HOUR_SECONDS, DashboardContext, ShownMoment
from entrypoints.dashboard.pauses import PAUSES_SHOWN, form_values, read_pauses
from entrypoints.dashboard.rendering import is_from_page
from entrypoints.dashboard.throttles import THROTTLES_READ, read_throttles
from projections.activity.metrics import highest

_USERS_SHOWN: Final = 20
_REFUSED_SHOWN: Final = 20
_SETTINGS_READ: Final = 200
_NAMES_OFFERED: Final = 200
_SCOPES: Final = {
    Scope.USER: "user",
    Scope.KIND: "kind",
    Scope.GLOBAL: "all",
    Scope.PLAN: "plan",
    Scope.USER_KIND: "user's kind",
    Scope.RESOURCE: "resource",
}
_LABELS: Final = {
    "submissions": "Submissions per window",
    "windows": "Further windows",
    "running": "Running at once",
    "throttle": "Starts",
    "weight": "Weight",
    "paused": "Paused",
    "max_attempts": "Most attempts",
    "priority_max": "Highest priority",
}
_AFTER: Final = ("after_user", "after_kind", "after_resource", "after_plan")


class UserWindow(Struct, frozen=True):
    user_id: UserId
    window: WindowState
    running: int | None  # the cap on jobs running at once


class Effective(Struct, frozen=True):
    """A limit that holds for a user, and where it comes from."""

    label: str
    value: str
    source: str  # the user, a plan or the server


class Setting(Struct, frozen=True):
    """The limits that are set for one subject; None: the default."""

    subject: Subject
    scope: str  # a value of _SCOPES
    name: str  # empty for all users together
    submissions: int | None  # per window
    running: int | None  # at once
    is_paused: bool
    others: str  # the other limits, as a sentence

    def values(self, action: str) -> str:
        """Return the fields of the form that does `action` to it, as JSON."""
        return form_values(self.subject, action)


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
    kinds, plans = await _offered(context, request)
    return await context.show(
        request,
        "limits",
        "Limits",
        lambda connection, at: {
            **_read(context, connection, at),
            **_settings(context, connection, after),
            "wanted": _users(context, connection, at, [wanted])[0] if wanted is not None else None,
            "effective": _effective(context, connection, at, wanted) if wanted is not None else (),
            "line": context.fairlog.line.user(connection, wanted) if wanted is not None else None,
            "problem": problem,
        },
        user=user,
        kinds=kinds,
        plans=plans,
    )


async def _offered(
    context: DashboardContext, request: Request[Any, Any, Any]
) -> tuple[Sequence[Kind], Sequence[PlanName]]:
    """Return the kinds and plans that the form offers. A page that refreshes its live part has them
    already.
    """
    if is_from_page(request):
        return [], []
    fairlog = context.fairlog
    kinds = await fairlog.read(lambda connection: fairlog.line.kinds(connection, _NAMES_OFFERED))
    settings = await fairlog.read(lambda connection: fairlog.windows.limits_of(connection, []))
    return [kind for kind, _ in kinds], sorted(settings.plans)[:_NAMES_OFFERED]


def _settings(
    context: DashboardContext, connection: Connection, after: Subject | None
) -> dict[str, object]:
    """Read a page of the limits that are set."""
    found = context.fairlog.windows.set_limits(connection, after, _SETTINGS_READ)
    shown = [
        Setting(
            subject,
            _SCOPES[subject.scope],
            " · ".join(name for name in subject if name),
            limits.submissions,
            limits.running,
            limits.paused is True or limits.running == 0,
            "; ".join(_others(subject, limits)),
        )
        for subject, limits in found
        if limits != NONE
    ]
    is_cut = len(found) == _SETTINGS_READ
    return {
        "settings": shown,
        "is_first_page": after is None,
        "following": dict(zip(_AFTER, found[-1][0], strict=True)) if is_cut else None,
    }


def _others(subject: Subject, limits: Limits) -> Iterator[str]:
    """Yield what is set beside submissions and jobs running at once."""
    if limits.plan is not None and subject.scope is Scope.USER:
        yield f"plan {limits.plan}"
    if limits.paused is False:
        yield "not paused"
    for name in ("windows", "throttle", "weight", "max_attempts", "priority_max"):
        value = getattr(limits, name)
        if value is not None:
            yield f"{_LABELS[name].lower()} {_text(name, value)}"
    if limits.retry is not None:
        yield "a retry policy"
    if limits.timeout_seconds is not None:
        yield f"time-out {limits.timeout_seconds:g} s"
    if limits.push is not None:
        yield f"posted to {limits.push.url.partition('?')[0]}"


def _text(name: str, value: object) -> str:
    match value:
        case Rate(limit=limit, seconds=seconds):
            return f"{limit:,} in {seconds:,} s"
        case tuple():
            return ", ".join(_text(name, one) for one in value) or "none"
        case bool():
            return "yes" if value else "no"
        case int() if name == "weight":
            return f"{value / 100:g}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def _effective(
    context: DashboardContext, connection: Connection, at: ShownMoment, user_id: UserId
) -> list[Effective]:
    """Return the limits that hold for a user, each with what sets it."""
    windows, settings = context.fairlog.windows.load(connection, [user_id], at.now)
    own, limits = settings.users.get(user_id, NONE), settings.of_user(user_id)
    limit = windows.user_window(settings, user_id, context.fairlog.policy, at.now).limit
    found = []
    for name, label in _LABELS.items():
        value = getattr(limits, name)
        if value is None and name != "submissions":
            continue
        source = f"plan {limits.plan}"
        if getattr(own, name) is not None:
            source = "the user"
        elif value is None:
            source = "the server"
        found.append(Effective(label, _text(name, limit if value is None else value), source))
    return found


def _read(context: DashboardContext, connection: Connection, at: ShownMoment) -> dict[str, object]:
    """Return what every view of the page shows: windows, refusals, throttles and pauses.

    The windows are those of the users who have submitted most, or been refused most, since the
    current window began; those with the fewest submissions left come first.
    """
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
        "throttles": read_throttles(context, connection, at.now, users),
        "scopes": _SCOPES,
        "throttles_read": THROTTLES_READ,
        "pauses": read_pauses(context, connection),
        "pauses_shown": PAUSES_SHOWN,
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
