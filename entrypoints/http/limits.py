"""Routes that return and change the limits of users, of kinds and of all users together."""

from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import JSONBody

from domain.language import validation
from domain.language.errors import NotForUser
from domain.language.events import Scope
from entrypoints.http.access import key_of, sent_by
from entrypoints.http.parameters import KindInPath, UserIdInPath
from entrypoints.http.requests import KindChange, LimitChange
from entrypoints.http.strict_request import StrictRequest, exact_path_value
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import KindView, UserLimitsView, WindowView

_LIMITS = "/v1/limits/"
_KINDS = "/v1/kinds/"


class LimitController(Controller):
    """Routes for limits."""

    path = "/v1"
    tags = ("limits",)

    @get("/limits")
    async def of_all(self, request: StrictRequest, fairlog: NamedDependency[Fairlog]) -> WindowView:
        """Return the current window of all users together: its limit and its use."""
        _refuse_empty_id(request)
        return await fairlog.global_limits()

    @put("/limits")
    async def change_for_all(
        self, request: StrictRequest, data: JSONBody[LimitChange], fairlog: NamedDependency[Fairlog]
    ) -> WindowView:
        """Change the limit of all users together. null restores the server's default."""
        _refuse_empty_id(request)
        await fairlog.change_limit(sent_by(request, data.to_command(Scope.GLOBAL)))
        return await fairlog.global_limits()

    @get("/limits/{user_id:path}")
    async def of_user(
        self, user_id: UserIdInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> UserLimitsView:
        """Return the current windows of the user and of all users together."""
        user = validation.user_id(exact_path_value(user_id, request, _LIMITS))
        key = key_of(request)
        if key is not None and not key.is_for_user(user):
            raise NotForUser(key.name, user)
        return await fairlog.user_limits(user)

    @put("/limits/{user_id:path}")
    async def change_for_user(
        self,
        user_id: UserIdInPath,
        request: StrictRequest,
        data: JSONBody[LimitChange],
        fairlog: NamedDependency[Fairlog],
    ) -> UserLimitsView:
        """Change a user's limits: submissions per window, and jobs that run at once."""
        user = validation.user_id(exact_path_value(user_id, request, _LIMITS))
        await fairlog.change_limit(sent_by(request, data.to_command(Scope.USER, user_id=user)))
        return await fairlog.user_limits(user)

    @put("/kinds/{kind:path}")
    async def change_for_kind(
        self,
        kind: KindInPath,
        request: StrictRequest,
        data: JSONBody[KindChange],
        fairlog: NamedDependency[Fairlog],
    ) -> KindView:
        """Change how many jobs of the kind may run at once. null removes the limit."""
        named = validation.kind(exact_path_value(kind, request, _KINDS))
        await fairlog.change_limit(sent_by(request, data.to_command(named)))
        return await fairlog.kind(named)


def _refuse_empty_id(request: StrictRequest) -> None:
    """Refuse `/v1/limits/`, since Litestar routes an empty user id to the global limit.

    Raises `InvalidInput`.
    """
    if request.scope["raw_path"].startswith(_LIMITS.encode()):
        validation.user_id(exact_path_value("", request, _LIMITS))
        raise NotFoundException
