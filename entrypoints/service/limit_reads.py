"""Reads of limits, and of how they stand."""

from sqlalchemy.engine import Connection

from domain.fairness.line import Load
from domain.language.errors import UnknownPlan
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId
from domain.limits.limits import NONE, LimitSettings, Subject
from entrypoints.service.limit_views import (
    GlobalLimitsView,
    KindLimitsView,
    KindPage,
    PlanPage,
    PlanView,
    ResourcePage,
    ResourceView,
    UserKindView,
    UserLimitsView,
    global_limits_view,
    kind_limits_view,
    plan_view,
    resource_view,
    user_kind_view,
    user_limits_view,
)
from entrypoints.service.queries import Queries


async def user_limits(queries: Queries, user_id: UserId) -> UserLimitsView:
    """Return the limits of a user, with the windows of all users together."""

    def query(connection: Connection) -> UserLimitsView:
        now = queries.log.now(connection)
        windows, settings = queries.windows.load(connection, [user_id], now)
        return user_limits_view(user_id, windows, settings, queries.policy, now)

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
    settings = await _settings(queries, subject)
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
    """Return the limits of a user's kind."""
    subject = Subject(user_id, kind)
    settings = await _settings(queries, subject)
    return user_kind_view(user_id, kind, settings.of(subject))


async def kind(queries: Queries, name: Kind) -> KindLimitsView:
    """Return the limits and the load of a kind, with zeros if it has no jobs."""

    def query(connection: Connection) -> KindLimitsView:
        settings = queries.windows.of_subjects(connection, [Subject(kind=name)])
        load = queries.line.kind(connection, name)
        return kind_limits_view(name, load, settings.kinds.get(name, NONE))

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
        shown = [
            kind_limits_view(name, loads.get(name, Load()), limited.get(name, NONE))
            for name in names[:limit]
        ]
        return KindPage(shown, shown[-1].kind if len(names) > limit else None)

    return await queries.read(queries.with_saved_rows(query))


async def resource(queries: Queries, name: ResourceName) -> ResourceView:
    """Return the limits of a resource, or of a prefix."""
    prefixes = [ResourceName(f"{name[:length]}*") for length in range(len(name.rstrip("*")) + 1)]
    settings = await _settings(queries, *(Subject(resource=one) for one in [name, *prefixes]))
    return resource_view(name, settings.resource_setting(name), settings.of_resource(name))


async def resources(queries: Queries, after: str, limit: int) -> ResourcePage:
    """Return the next resources and prefixes that have limits, by name."""
    query = queries.with_saved_rows(
        lambda connection: queries.windows.set_names(connection, "resource", after, limit + 1)
    )
    found = await queries.read(query)
    shown = [
        resource_view(ResourceName(name), ResourceName(name), limits)
        for name, limits, _ in found[:limit]
    ]
    return ResourcePage(shown, shown[-1].resource if len(found) > limit else None)


async def _settings(queries: Queries, *subjects: Subject) -> LimitSettings:
    return await queries.read(
        queries.with_saved_rows(
            lambda connection: queries.windows.of_subjects(connection, subjects)
        )
    )
