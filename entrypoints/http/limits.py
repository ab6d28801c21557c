"""Limits: how they stand, and other ones from now on."""

from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from domain import validation
from domain.events import Scope
from entrypoints.http.requests import KindChange, LimitChange
from entrypoints.service import Fairlog
from entrypoints.views import KindView, UserLimitsView, WindowView


class LimitController(Controller):
    path = "/v1"
    tags = ["limits"]

    @get("/limits")
    async def of_all(self, fairlog: NamedDependency[Fairlog]) -> WindowView:
        """The window of all users together."""
        return await fairlog.global_limits()

    @put("/limits")
    async def change_for_all(
        self, data: JSONBody[LimitChange], fairlog: NamedDependency[Fairlog]
    ) -> WindowView:
        """Another limit for all users together; null: the default again."""
        await fairlog.change_limit(data.to_command(Scope.GLOBAL))
        return await fairlog.global_limits()

    @get("/limits/{user_id:str}")
    async def of_user(
        self, user_id: FromPath[str], fairlog: NamedDependency[Fairlog]
    ) -> UserLimitsView:
        """The user's window, and the one of all users together."""
        return await fairlog.user_limits(validation.user_id(user_id))

    @put("/limits/{user_id:str}")
    async def change_for_user(
        self, user_id: FromPath[str], data: JSONBody[LimitChange], fairlog: NamedDependency[Fairlog]
    ) -> UserLimitsView:
        """Other limits for a user: submissions a window, and jobs running at once."""
        user = validation.user_id(user_id)
        await fairlog.change_limit(data.to_command(Scope.USER, user_id=user))
        return await fairlog.user_limits(user)

    @put("/kinds/{kind:str}")
    async def change_for_kind(
        self, kind: FromPath[str], data: JSONBody[KindChange], fairlog: NamedDependency[Fairlog]
    ) -> KindView:
        """At most so many jobs of the kind running at once; null: no cap."""
        named = validation.kind(kind)
        await fairlog.change_limit(data.to_command(named))
        return await fairlog.kind(named)
