"""Reads of limits, and of how they stand."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.engine import Connection

from domain.fairness.line import Load
from domain.fairness.start_limits import NO_STARTS
from domain.language.errors import UnknownPlan
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId
from domain.limits.limits import NONE, Limits, Subject
from entrypoints.service.limit_views import (
    GlobalLimitsView,
    KindLimitsView,
    KindPage,
    PlanPage,
    PlanView,
    ResourcePage,
    ResourceView,
    ThrottleView,
    UserKindView,
    UserLimitsView,
    global_limits_view,
    kind_limits_view,
    plan_view,
    resource_view,
    throttle_view,
    user_kind_view,
    user_limits_view,
)
from entrypoints.service.queries import Queries


async def user_limits(queries: Queries, user_id: UserId) -> UserLimitsView:
    """Return the limits of a user, with the windows of all users together."""

    def query(connection: Connection) -> UserLimitsView:
        now = queries.log.now(connection)
        windows, settings = queries.windows.load(connection, [user_id], now)
        subject = Subject(user_id)
        throttle = throttles(queries, connection, {subject: settings.of_user(user_id)}, now)
        return user_limits_view(
            user_id, windows, settings, queries.policy, now, throttle.get(subject)
        )

    return await queries.read(queries.with_saved_rows(query))


async def global_limits(queries: Queries) -> GlobalLimitsView:
    """Return the limits of all users together."""

    def query(connection: Connection) -> GlobalLimitsView:
        now = queries.log.now(connection)
        windows, settings = queries.windows.load(connection, [], now)
        return global_limits_view(windows, settings, queries.policy, now)

    return await queries.read(queries.with_saved_rows(query))


async def plan(queries: Queries, name: PlanName) -> PlanView:
    """Return a plan. Raises `UnknownPlan`."""
    subject = Subject(plan=name)
    settings = await queries.read(
        queries.with_saved_rows(
            lambda connection: queries.windows.of_subjects(connection, [subject])
        )
    )
    if name not in settings.plans:
        raise UnknownPlan(name)
    return plan_view(name, settings.plans[name], settings.members(subject))


async def plans(queries: Queries, after: str, limit: int) -> PlanPage:
    """Return the next plans by name."""
    query = queries.with_saved_rows(
        lambda connection: queries.windows.set_names(connection, "plan", after, limit + 1)
    )
    found = await queries.read(query)
    shown = [plan_view(PlanName(name), limits, members) for name, limits, members in found[:limit]]
    return PlanPage(shown, shown[-1].name if len(found) > limit else None)


async def user_kind(queries: Queries, user_id: UserId, kind: Kind) -> UserKindView:
    """Return the limits of a user's kind, and how they stand."""
    subject = Subject(user_id, kind)

    def query(connection: Connection) -> UserKindView:
        limits = queries.windows.of_subjects(connection, [subject]).of(subject)
        load = queries.line.user_kind(connection, user_id, kind)
        throttle = throttles(queries, connection, {subject: limits}, queries.log.now(connection))
        return user_kind_view(user_id, kind, load, limits, throttle.get(subject))

    return await queries.read(queries.with_saved_rows(query))


async def kind(queries: Queries, name: Kind) -> KindLimitsView:
    """Return the limits and the load of a kind, with zeros if it has no jobs."""

    def query(connection: Connection) -> KindLimitsView:
        limits = queries.windows.of_subjects(connection, [Subject(kind=name)]).of_kind(name)
        load = queries.line.kind(connection, name)
        return _kind_views(queries, connection, {name: (load, limits)})[0]

    return await queries.read(queries.with_saved_rows(query))


async def kinds(queries: Queries, after: str, limit: int) -> KindPage:
    """Return the next kinds that have jobs or limits, by name."""

    def query(connection: Connection) -> KindPage:
        loads = dict(queries.line.kinds(connection, limit + 1, after))
        limited = {
            Kind(name): limits
            for name, limits, _ in queries.windows.set_names(connection, "kind", after, limit + 1)
        }
        names = sorted({*loads, *limited}, key=str.encode)
        states = {
            name: (loads.get(name, Load()), limited.get(name, NONE)) for name in names[:limit]
        }
        shown = _kind_views(queries, connection, states)
        return KindPage(shown, shown[-1].kind if len(names) > limit else None)

    return await queries.read(queries.with_saved_rows(query))


def _kind_views(
    queries: Queries, connection: Connection, states: Mapping[Kind, tuple[Load, Limits]]
) -> list[KindLimitsView]:
    limited = {Subject(kind=name): limits for name, (_, limits) in states.items()}
    found = throttles(queries, connection, limited, queries.log.now(connection))
    return [
        kind_limits_view(name, load, limits, found.get(Subject(kind=name)))
        for name, (load, limits) in states.items()
    ]


async def resource(queries: Queries, name: ResourceName) -> ResourceView:
    """Return the limits of a resource, or of a prefix, and how they stand."""
    prefixes = [ResourceName(f"{name[:length]}*") for length in range(len(name.rstrip("*")) + 1)]
    subjects = [Subject(resource=one) for one in [name, *prefixes]]

    def query(connection: Connection) -> ResourceView:
        settings = queries.windows.of_subjects(connection, subjects)
        state = (settings.resource_setting(name), settings.of_resource(name))
        return _resource_views(queries, connection, {name: state})[0]

    return await queries.read(queries.with_saved_rows(query))


async def resources(queries: Queries, after: str, limit: int) -> ResourcePage:
    """Return the next resources and prefixes that have limits, by name."""

    def query(connection: Connection) -> ResourcePage:
        found = queries.windows.set_names(connection, "resource", after, limit + 1)
        names = {ResourceName(name): limits for name, limits, _ in found[:limit]}
        states = {name: (name, limits) for name, limits in names.items()}
        shown = _resource_views(queries, connection, states)
        return ResourcePage(shown, shown[-1].resource if len(found) > limit else None)

    return await queries.read(queries.with_saved_rows(query))


def _resource_views(
    queries: Queries,
    connection: Connection,
    states: Mapping[ResourceName, tuple[ResourceName | None, Limits]],
) -> list[ResourceView]:
    """Return views of resources and prefixes, each with the name or prefix that sets its limits."""
    limited = {Subject(resource=name): limits for name, (_, limits) in states.items()}
    found = throttles(queries, connection, limited, queries.log.now(connection))
    loads = queries.line.resources(connection, states)
    return [
        resource_view(
            name,
            set_by,
            None if is_prefix(name) else loads.get(name, Load()),
            limits,
            found.get(Subject(resource=name)),
        )
        for name, (set_by, limits) in states.items()
    ]


def throttles(
    queries: Queries, connection: Connection, limited: Mapping[Subject, Limits], now: datetime
) -> dict[Subject, ThrottleView]:
    """Return the throttles of the subjects that have one, and how they stand.

    A prefix of resources has no count: each resource has its own.
    """
    throttled = {subject: one for subject, one in limited.items() if one.throttle is not None}
    counted = [subject for subject in throttled if not is_prefix(subject.resource)]
    starts = queries.line.starts(connection, counted) if counted else {}
    views = (
        (
            subject,
            throttle_view(
                limits, None if is_prefix(subject.resource) else starts.get(subject, NO_STARTS), now
            ),
        )
        for subject, limits in throttled.items()
    )
    return {subject: view for subject, view in views if view is not None}


def is_prefix(resource: ResourceName) -> bool:
    """Return True if limits are set for all resources that begin alike."""
    return resource.endswith("*")
