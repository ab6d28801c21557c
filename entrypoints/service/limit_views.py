"""Limits as answers show them: what is set, and how it stands."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from domain.fairness.line import Load
from domain.fairness.start_limits import Starts, starts_in_window, window_end
from domain.language.events import Scope, window_name
from domain.language.identifiers import GLOBAL, Kind, PlanName, ResourceName, UserId
from domain.language.limits import WEIGHT_DEFAULT, Rate
from domain.language.moments import from_micros, to_micros
from domain.language.policy import Policy
from domain.language.push_fields import PushFields, push_fields
from domain.language.ranges import (
    NAME,
    Count,
    Limit,
    MaxAttempts,
    Priority,
    Time,
    TimeoutSeconds,
    Weight,
    WindowSeconds,
)
from domain.language.retry_fields import RetryFields
from domain.limits.limits import Limits, LimitSettings
from domain.limits.rate_limits import Windows, WindowState
from entrypoints.service.views import KindView, WindowView, window_view

_Plan = Annotated[PlanName, NAME]
_Resource = Annotated[ResourceName, NAME]
_Throttle = Annotated[
    "ThrottleView | None", Meta(description="Starts of jobs in a window. null: not limited.")
]
_Paused = Annotated[bool, Meta(description="true: no job starts.")]
_RunningLimit = Annotated[
    Limit | None, Meta(description="How many jobs may run at once. null: no limit.")
]


class RateView(Struct, frozen=True):
    """A limit in each window of some length."""

    limit: Annotated[Limit, Meta(description="At most so many in a window.")]
    seconds: Annotated[WindowSeconds, Meta(description="The length of the window in seconds.")]


class ThrottleView(RateView, frozen=True):
    """A limit on starts, and its use."""

    started: Annotated[
        Count | None,
        Meta(
            description="Jobs started in the current window, counted from the event that set the "
            "limit. null for a prefix: each resource has its own count."
        ),
    ]
    resets_at: Annotated[Time, Meta(description="When the window ends, exclusive.")]


class WindowUseView(Struct, frozen=True):
    """A further window of submissions, and its use."""

    name: Annotated[str, Meta(description="Its name in the RateLimit header fields.")]
    limit: Annotated[Limit, Meta(description="Submissions that a window allows.")]
    seconds: Annotated[WindowSeconds, Meta(description="The length of the window in seconds.")]
    used: Annotated[Count, Meta(description="Submissions admitted in the current window.")]
    remaining: Annotated[Count, Meta(description="Submissions that the window still allows.")]
    resets_at: Annotated[Time, Meta(description="When the window ends, exclusive.")]


class _SetForUsers(Struct, frozen=True, kw_only=True):
    """The limits that are set for a user or a plan."""

    limit: Annotated[
        Limit | None,
        Meta(description="Submissions per window of the server. null or left out: not set."),
    ] = None
    running: Annotated[
        Limit | None, Meta(description="Jobs that run at once. null or left out: not set.")
    ] = None
    windows: Annotated[
        Sequence[RateView] | None,
        Meta(
            description="Further limits of submissions. An empty list: none. null or left out: not "
            "set."
        ),
    ] = None
    throttle: Annotated[
        RateView | None, Meta(description="Starts of jobs in a window. null or left out: not set.")
    ] = None
    weight: Annotated[
        Weight | None,
        Meta(
            description="The share of the service in proportion to other users', 0.01 to 1000. "
            "null or left out: not set."
        ),
    ] = None
    paused: Annotated[
        bool | None, Meta(description="true: no job starts. null or left out: not set.")
    ] = None
    max_attempts: Annotated[
        MaxAttempts | None,
        Meta(description="The most attempts that a job may ask for. null or left out: not set."),
    ] = None
    priority_max: Annotated[
        Priority | None,
        Meta(description="The highest priority that a job may ask for. null or left out: not set."),
    ] = None


class SetLimitsView(_SetForUsers, frozen=True, kw_only=True, omit_defaults=True):
    """The limits that are set for one subject; others are left out."""

    plan: Annotated[
        _Plan | None,
        Meta(description="The plan that the user is on. null or left out: not set."),
    ] = None
    retry: Annotated[
        RetryFields | None,
        Meta(description="How jobs of the kind are tried again. null or left out: not set."),
    ] = None
    timeout_seconds: Annotated[
        TimeoutSeconds | None,
        Meta(description="The time-out of jobs of the kind in seconds. null or left out: not set."),
    ] = None
    push: Annotated[
        PushFields | None,
        Meta(
            description="The endpoint that jobs of the kind are posted to. null or left out: "
            "workers claim them."
        ),
    ] = None


class UserLimitsView(WindowView, frozen=True, kw_only=True):
    """A user's limits: each the user's own, else that of the user's plan. `limit` and the numbers
    beside it are about the window of the server.
    """

    user_id: Annotated[UserId, NAME, Meta(description="The user, 1 to 255 bytes.")]
    plan: Annotated[_Plan | None, Meta(description="The plan whose limits apply. null: none.")]
    windows: Annotated[
        Sequence[WindowUseView], Meta(description="Further windows; all have to allow.")
    ]
    throttle: _Throttle
    weight: Annotated[
        Weight,
        Meta(
            description="The share of the service in proportion to other users', 0.01 to 1000; 1 "
            "if nothing is set."
        ),
    ]
    paused: _Paused
    max_attempts: Annotated[
        MaxAttempts | None,
        Meta(description="The most attempts that a job may ask for. null: any number."),
    ]
    priority_max: Annotated[
        Priority | None,
        Meta(description="The highest priority that a job may ask for. null: any."),
    ]
    set: Annotated[SetLimitsView, Meta(description="What is set for the user.")]
    global_: Annotated[WindowView, Meta(description="The window of all users together.")] = field(
        name="global"
    )


class GlobalLimitsView(WindowView, frozen=True, kw_only=True):
    """The limits of all users together."""

    windows: Annotated[
        Sequence[WindowUseView], Meta(description="Further windows; all have to allow.")
    ]
    paused: _Paused
    set: Annotated[SetLimitsView, Meta(description="What is set for all users together.")]


class PlanView(_SetForUsers, frozen=True, kw_only=True):
    """A plan: the limits of all users on it. null: as without a plan."""

    name: Annotated[_Plan, Meta(description="The plan's name, 1 to 255 bytes.")]
    users: Annotated[Count, Meta(description="Users who have been put on it.")]


class PlanPage(Struct, frozen=True):
    """A page of plans, by name."""

    plans: Annotated[Sequence[PlanView], Meta(description="The plans, at most 1000.")]
    next: Annotated[str | None, Meta(description="The cursor of the next page. null: no more.")]


class UserKindView(Struct, frozen=True, kw_only=True):
    """The limits of a user's jobs of a kind, beside those of the user and of the kind."""

    user_id: Annotated[UserId, NAME, Meta(description="The user, 1 to 255 bytes.")]
    kind: Annotated[Kind, NAME, Meta(description="The kind of job, 1 to 255 bytes.")]
    waiting: Annotated[Count, Meta(description="The user's jobs of the kind that wait.")]
    running: Annotated[Count, Meta(description="The user's jobs of the kind that run.")]
    running_limit: _RunningLimit
    throttle: _Throttle
    paused: _Paused


class KindLimitsView(KindView, frozen=True, kw_only=True):
    """A kind of job: its limits, and how it stands."""

    throttle: _Throttle
    paused: _Paused
    retry: Annotated[
        RetryFields | None, Meta(description="How its jobs are tried again. null: the server's.")
    ]
    timeout_seconds: Annotated[
        TimeoutSeconds | None,
        Meta(description="The time-out of its jobs in seconds. null: the server's."),
    ]
    push: Annotated[
        PushFields | None,
        Meta(description="The endpoint that its jobs are posted to. null: workers claim them."),
    ]


class KindPage(Struct, frozen=True):
    """A page of the kinds that have jobs or limits, by name."""

    kinds: Annotated[Sequence[KindLimitsView], Meta(description="The kinds, at most 1000.")]
    next: Annotated[str | None, Meta(description="The cursor of the next page. null: no more.")]


class ResourceView(Struct, frozen=True, kw_only=True):
    """The limits of the jobs that use a resource."""

    resource: Annotated[_Resource, Meta(description="Its name, or a prefix and `*`.")]
    set_by: Annotated[
        _Resource | None,
        Meta(description="The name or prefix whose limits apply to it. null: none."),
    ]
    waiting: Annotated[
        Count | None, Meta(description="Jobs that wait and use it. null for a prefix.")
    ]
    running: Annotated[
        Count | None, Meta(description="Jobs that run and use it. null for a prefix.")
    ]
    running_limit: _RunningLimit
    throttle: _Throttle
    paused: _Paused


class ResourcePage(Struct, frozen=True):
    """A page of the resources and prefixes that have limits, by name."""

    resources: Annotated[Sequence[ResourceView], Meta(description="The resources, at most 1000.")]
    next: Annotated[str | None, Meta(description="The cursor of the next page. null: no more.")]


def rate_view(rate: Rate | None) -> RateView | None:
    return None if rate is None else RateView(rate.limit, rate.seconds)


def throttle_view(limits: Limits, starts: Starts | None, now: datetime) -> ThrottleView | None:
    """Return a throttle and its use. `starts` of None: they are counted for each name."""
    if (throttle := limits.throttle) is None:
        return None
    micros = to_micros(now)
    return ThrottleView(
        throttle.limit,
        throttle.seconds,
        None if starts is None else starts_in_window(limits, starts, micros),
        from_micros(window_end(limits, micros)),
    )


def weight_of(limits: Limits) -> float:
    """Return the weight as users write it, 0.01 to 1000."""
    return (WEIGHT_DEFAULT if limits.weight is None else limits.weight) / 100


def set_limits_view(limits: Limits) -> SetLimitsView:
    return SetLimitsView(
        limit=limits.submissions,
        running=limits.running,
        windows=_rates(limits),
        throttle=rate_view(limits.throttle),
        weight=None if limits.weight is None else weight_of(limits),
        plan=limits.plan,
        paused=limits.paused,
        max_attempts=limits.max_attempts,
        priority_max=limits.priority_max,
        retry=_retry(limits),
        timeout_seconds=limits.timeout_seconds,
        push=push_fields(limits.push),
    )


def user_limits_view(
    user_id: UserId,
    windows: Windows,
    settings: LimitSettings,
    policy: Policy,
    now: datetime,
    throttle: ThrottleView | None,
) -> UserLimitsView:
    limits = settings.of_user(user_id)
    window = windows.user_window(settings, user_id, policy, now)
    return UserLimitsView(
        user_id=user_id,
        limit=window.limit,
        used=window.used,
        remaining=window.remaining,
        window_seconds=window.window_seconds,
        resets_at=window.resets_at,
        running=limits.running,
        plan=limits.plan,
        windows=_uses(Scope.USER, windows.further(limits, user_id, now)),
        throttle=throttle,
        weight=weight_of(limits),
        paused=bool(limits.paused),
        max_attempts=limits.max_attempts,
        priority_max=limits.priority_max,
        set=set_limits_view(settings.users.get(user_id, Limits())),
        global_=window_view(windows.global_window(settings, policy, now), None),
    )


def global_limits_view(
    windows: Windows, settings: LimitSettings, policy: Policy, now: datetime
) -> GlobalLimitsView:
    limits = settings.everyone
    window = windows.global_window(settings, policy, now)
    return GlobalLimitsView(
        limit=window.limit,
        used=window.used,
        remaining=window.remaining,
        window_seconds=window.window_seconds,
        resets_at=window.resets_at,
        running=limits.running,
        windows=_uses(Scope.GLOBAL, windows.further(limits, GLOBAL, now)),
        paused=bool(limits.paused),
        set=set_limits_view(limits),
    )


def plan_view(name: PlanName, limits: Limits, users: int) -> PlanView:
    return PlanView(
        name=name,
        users=users,
        limit=limits.submissions,
        running=limits.running,
        windows=_rates(limits),
        throttle=rate_view(limits.throttle),
        weight=None if limits.weight is None else weight_of(limits),
        paused=limits.paused,
        max_attempts=limits.max_attempts,
        priority_max=limits.priority_max,
    )


def user_kind_view(
    user_id: UserId, kind: Kind, load: Load, limits: Limits, throttle: ThrottleView | None
) -> UserKindView:
    return UserKindView(
        user_id=user_id,
        kind=kind,
        waiting=load.waiting,
        running=load.running,
        running_limit=limits.running,
        throttle=throttle,
        paused=bool(limits.paused),
    )


def kind_limits_view(
    kind: Kind, load: Load, limits: Limits, throttle: ThrottleView | None
) -> KindLimitsView:
    return KindLimitsView(
        kind=kind,
        waiting=load.waiting,
        running=load.running,
        running_limit=limits.running,
        throttle=throttle,
        paused=bool(limits.paused),
        retry=_retry(limits),
        timeout_seconds=limits.timeout_seconds,
        push=push_fields(limits.push),
    )


def resource_view(
    resource: ResourceName,
    set_by: ResourceName | None,
    load: Load | None,
    limits: Limits,
    throttle: ThrottleView | None,
) -> ResourceView:
    """Return the view of a resource. `load` of None: it is a prefix."""
    return ResourceView(
        resource=resource,
        set_by=set_by,
        waiting=None if load is None else load.waiting,
        running=None if load is None else load.running,
        running_limit=limits.running,
        throttle=throttle,
        paused=bool(limits.paused),
    )


def _retry(limits: Limits) -> RetryFields | None:
    return None if limits.retry is None else RetryFields(**asdict(limits.retry))


def _rates(limits: Limits) -> Sequence[RateView] | None:
    if limits.windows is None:
        return None
    return [RateView(rate.limit, rate.seconds) for rate in limits.windows]


def _uses(scope: Scope, windows: Sequence[WindowState]) -> list[WindowUseView]:
    return [
        WindowUseView(
            window_name(scope, one.window_seconds),
            one.limit,
            one.window_seconds,
            one.used,
            one.remaining,
            one.resets_at,
        )
        for one in windows
    ]
