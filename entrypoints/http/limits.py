"""Routes for limits: of users and their kinds, all users together, plans, kinds and resources."""

from urllib.parse import unquote

from litestar import Controller, delete, get, put
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import JSONBody
from litestar.status_codes import HTTP_204_NO_CONTENT

from domain.language import validation
from domain.language.commands import DeletePlan
from domain.language.errors import NotForKind, NotForUser
from domain.language.identifiers import UserId
from entrypoints.http.access import key_of, sent_by
from entrypoints.http.limit_requests import KindChange, LimitChange, StartLimitChange
from entrypoints.http.paging import limit_of
from entrypoints.http.parameters import (
    Cursor,
    KindInPath,
    Limit,
    PlanInPath,
    ResourceInPath,
    UserIdInPath,
)
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service import limit_reads
from entrypoints.service.fairlog import Fairlog
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
)

_LIMITS = b"/v1/limits/"


class LimitController(Controller):
    """Routes for the limits of users and of all users together.

    Names in paths are percent-encoded, see `entrypoints.http.edge.named_path`.
    """

    path = "/v1/limits"
    tags = ("limits",)

    @get()
    async def of_all(
        self, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> GlobalLimitsView:
        """Return the limits of all users together, and the use of their windows."""
        _refuse_empty_id(request)
        return await limit_reads.global_limits(fairlog)

    @put()
    async def change_for_all(
        self, request: StrictRequest, data: JSONBody[LimitChange], fairlog: NamedDependency[Fairlog]
    ) -> GlobalLimitsView:
        """Change the limits of all users together. null restores the server's default."""
        _refuse_empty_id(request)
        await fairlog.change_limit(sent_by(request, data.of_all()))
        return await limit_reads.global_limits(fairlog)

    @get("/{user_id:str}")
    async def of_user(
        self, user_id: UserIdInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> UserLimitsView:
        """Return a user's limits, each the user's own or the plan's, and the use of the windows."""
        return await limit_reads.user_limits(fairlog, _visible_user(request, user_id))

    @put("/{user_id:str}")
    async def change_for_user(
        self,
        user_id: UserIdInPath,
        request: StrictRequest,
        data: JSONBody[LimitChange],
        fairlog: NamedDependency[Fairlog],
    ) -> UserLimitsView:
        """Change a user's limits. null restores those of the plan, or the server's default."""
        user = validation.user_id(unquote(user_id))
        await fairlog.change_limit(sent_by(request, data.of_user(user)))
        return await limit_reads.user_limits(fairlog, user)

    @get("/{user_id:str}/kinds/{kind:str}")
    async def of_user_kind(
        self,
        user_id: UserIdInPath,
        kind: KindInPath,
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
    ) -> UserKindView:
        """Return the limits of a user's jobs of a kind, beside those of the user and the kind."""
        user, named = _visible_user(request, user_id), validation.kind(unquote(kind))
        key = key_of(request)
        if key is not None and not key.is_for_kind(named):
            raise NotForKind(key.name, named)
        return await limit_reads.user_kind(fairlog, user, named)

    @put("/{user_id:str}/kinds/{kind:str}")
    async def change_for_user_kind(
        self,
        user_id: UserIdInPath,
        kind: KindInPath,
        request: StrictRequest,
        data: JSONBody[StartLimitChange],
        fairlog: NamedDependency[Fairlog],
    ) -> UserKindView:
        """Change the limits of a user's jobs of a kind. null removes a limit."""
        user, named = validation.user_id(unquote(user_id)), validation.kind(unquote(kind))
        await fairlog.change_limit(sent_by(request, data.of_user_kind(user, named)))
        return await limit_reads.user_kind(fairlog, user, named)


class PlanController(Controller):
    """Routes for plans."""

    path = "/v1/plans"
    tags = ("limits",)

    @get()
    async def list_plans(
        self, fairlog: NamedDependency[Fairlog], cursor: Cursor = None, limit: Limit = 100
    ) -> PlanPage:
        """List plans by name."""
        return await limit_reads.plans(fairlog, cursor or "", limit_of(limit))

    @get("/{name:str}")
    async def get_plan(self, name: PlanInPath, fairlog: NamedDependency[Fairlog]) -> PlanView:
        """Return what is set for the users on a plan, and their number."""
        return await limit_reads.plan(fairlog, validation.plan_name(unquote(name)))

    @put("/{name:str}")
    async def change(
        self,
        name: PlanInPath,
        request: StrictRequest,
        data: JSONBody[LimitChange],
        fairlog: NamedDependency[Fairlog],
    ) -> PlanView:
        """Change a plan for all its users at once, or make it."""
        plan = validation.plan_name(unquote(name))
        await fairlog.change_limit(sent_by(request, data.of_plan(plan)))
        return await limit_reads.plan(fairlog, plan)

    @delete("/{name:str}", status_code=HTTP_204_NO_CONTENT)
    async def remove(
        self, name: PlanInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> None:
        """Delete a plan. Refused while users are on it."""
        plan = validation.plan_name(unquote(name))
        await fairlog.writer.execute(sent_by(request, DeletePlan(plan=plan)))


class KindController(Controller):
    """Routes for the limits of kinds."""

    path = "/v1/kinds"
    tags = ("limits",)

    @get()
    async def list_kinds(
        self, fairlog: NamedDependency[Fairlog], cursor: Cursor = None, limit: Limit = 100
    ) -> KindPage:
        """List the kinds that have jobs or limits, by name."""
        return await limit_reads.kinds(fairlog, cursor or "", limit_of(limit))

    @get("/{kind:str}")
    async def get_kind(self, kind: KindInPath, fairlog: NamedDependency[Fairlog]) -> KindLimitsView:
        """Return the limits and the load of a kind."""
        return await limit_reads.kind(fairlog, validation.kind(unquote(kind)))

    @put("/{kind:str}")
    async def change(
        self,
        kind: KindInPath,
        request: StrictRequest,
        data: JSONBody[KindChange],
        fairlog: NamedDependency[Fairlog],
    ) -> KindLimitsView:
        """Change the limits of a kind. null removes a limit."""
        named = validation.kind(unquote(kind))
        await fairlog.change_limit(sent_by(request, data.of_kind(named)))
        return await limit_reads.kind(fairlog, named)


class ResourceController(Controller):
    """Routes for the limits of resources."""

    path = "/v1/resources"
    tags = ("limits",)

    @get()
    async def list_resources(
        self, fairlog: NamedDependency[Fairlog], cursor: Cursor = None, limit: Limit = 100
    ) -> ResourcePage:
        """List the resources and prefixes that have limits, by name."""
        return await limit_reads.resources(fairlog, cursor or "", limit_of(limit))

    @get("/{name:str}")
    async def get_resource(
        self, name: ResourceInPath, fairlog: NamedDependency[Fairlog]
    ) -> ResourceView:
        """Return the limits of a resource: its own, or those of the longest prefix that fits."""
        return await limit_reads.resource(fairlog, validation.resource_setting(unquote(name)))

    @put("/{name:str}")
    async def change(
        self,
        name: ResourceInPath,
        request: StrictRequest,
        data: JSONBody[StartLimitChange],
        fairlog: NamedDependency[Fairlog],
    ) -> ResourceView:
        """Change the limits of a resource, or of each resource that begins alike: `shopify:*`."""
        resource = validation.resource_setting(unquote(name))
        await fairlog.change_limit(sent_by(request, data.of_resource(resource)))
        return await limit_reads.resource(fairlog, resource)


LIMIT_CONTROLLERS = (LimitController, PlanController, KindController, ResourceController)


def _visible_user(request: StrictRequest, user_id: str) -> UserId:
    """Return a user whom the caller may see. Raises `NotForUser` and `InvalidInput`."""
    user = validation.user_id(unquote(user_id))
    key = key_of(request)
    if key is not None and not key.is_for_user(user):
        raise NotForUser(key.name, user)
    return user


def _refuse_empty_id(request: StrictRequest) -> None:
    """Refuse `/v1/limits/`, since Litestar routes an empty user id to the global limit.

    Raises `InvalidInput`.
    """
    if request.scope["raw_path"].startswith(_LIMITS):
        validation.user_id(unquote(request.scope["raw_path"].removeprefix(_LIMITS).decode()))
        raise NotFoundException
