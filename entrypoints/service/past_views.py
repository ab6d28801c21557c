"""The state of the system at an earlier moment as answers show it."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct, field

from domain.jobs.job import State
from domain.language.events import Scope
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId
from domain.language.ranges import NAME, POSITION, Count, Limit, Time
from domain.limits.limits import Limits, Subject
from entrypoints.service.callbacks import CallbackView
from entrypoints.service.key_views import KeyView
from entrypoints.service.limit_views import SetLimitsView, set_limits_view
from entrypoints.service.schedule_views import PastScheduleView
from entrypoints.service.views import LineView, WindowView


class LimitView(Struct, frozen=True, kw_only=True):
    """The limits that are set for one subject; names that do not belong to it are null."""

    scope: Annotated[Scope, Meta(description="The kind of subject.")]
    user_id: Annotated[UserId | None, NAME, Meta(description="The user, or null.")]
    kind: Annotated[Kind | None, NAME, Meta(description="The kind of job, or null.")]
    resource: Annotated[
        ResourceName | None, NAME, Meta(description="The resource, or a prefix and `*`, or null.")
    ]
    plan: Annotated[
        PlanName | None,
        NAME,
        Meta(description="The plan, or the one that the user is on, or null."),
    ]
    limit: Annotated[
        Limit | None, Meta(description="Submissions per window. null: the server's default.")
    ]
    running: Annotated[
        Limit | None, Meta(description="How many jobs may run at once. null: no limit.")
    ]
    set: Annotated[SetLimitsView, Meta(description="All that is set for it.")]


def limit_view(subject: Subject, limits: Limits) -> LimitView:
    return LimitView(
        scope=subject.scope,
        user_id=subject.user_id or None,
        kind=subject.kind or None,
        resource=subject.resource or None,
        plan=limits.plan,
        limit=limits.submissions,
        running=limits.running,
        set=set_limits_view(limits),
    )


class PastStateView(Struct, frozen=True, kw_only=True):
    """The service in numbers at an earlier moment, with the limits, the schedules and the endpoints
    that were set.

    A default limit is the one of the latest decision before that moment, or today's without one.
    """

    position: Annotated[
        int, POSITION, Meta(description="The position of the latest event included.")
    ]
    recorded_at: Annotated[Time, Meta(description="When that event was recorded.")]
    jobs: Annotated[dict[State, Count], Meta(description="Jobs by state.")]
    total: Annotated[Count, Meta(description="All jobs.")]
    line: Annotated[LineView, Meta(description="The waiting line.")]
    limits: Annotated[
        Sequence[LimitView], Meta(description="The first 1000 limits, by user and kind.")
    ]
    limits_total: Annotated[Count, Meta(description="All limits that were set.")]
    schedules: Annotated[
        Sequence[PastScheduleView], Meta(description="The first 1000 schedules, by name.")
    ]
    schedules_total: Annotated[Count, Meta(description="All schedules.")]
    callbacks: Annotated[
        Sequence[CallbackView], Meta(description="The endpoints of callbacks, by name.")
    ]
    keys: Annotated[
        Sequence[KeyView], Meta(description="The API keys that were valid, by creation.")
    ]
    global_: Annotated[WindowView, Meta(description="The window of all users together.")] = field(
        name="global"
    )
