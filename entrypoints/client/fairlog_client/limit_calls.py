"""The calls about limits and plans."""

from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from fairlog_client.answers import KindLimits, Limits, Plan, PlansPage, Push, Rate, UserLimits
from fairlog_client.errors import InvalidArguments
from fairlog_client.flows import Flow, Items, Request, Retries, answer_of, answered, paged, read


class LimitCalls:
    """The calls about limits and plans. A limit of None is the default again."""

    retries: Retries

    def limits(self, user_id: str) -> Flow[UserLimits]:
        """Return the limits of a user, with the window of all users together."""
        request = Request(method="GET", path=_limits_path(user_id))
        return (yield from answer_of(request, self.retries, UserLimits))

    def global_limits(self) -> Flow[Limits]:
        """Return the limits of all users together."""
        request = Request(method="GET", path="/v1/limits")
        return (yield from answer_of(request, self.retries, Limits))

    def set_limits(  # noqa: PLR0913 (each is a limit)
        self,
        user_id: str | None,
        *,
        limit: int | UnsetType | None = UNSET,
        running: int | UnsetType | None = UNSET,
        windows: Sequence[Rate] | UnsetType | None = UNSET,
        throttle: Rate | UnsetType | None = UNSET,
        weight: float | UnsetType | None = UNSET,
        plan: str | UnsetType | None = UNSET,
        paused: bool | UnsetType | None = UNSET,
        max_attempts: int | UnsetType | None = UNSET,
        priority_max: int | UnsetType | None = UNSET,
    ) -> Flow[Limits]:
        """Set limits of a user, or of all users together with a user_id of None.

        Those that are not given stay. Raises `NotFound` for a plan that does not exist.
        """
        content = _given(
            limit=limit,
            running=running,
            windows=windows,
            throttle=throttle,
            weight=weight,
            plan=plan,
            paused=paused,
            max_attempts=max_attempts,
            priority_max=priority_max,
        )
        path = "/v1/limits" if user_id is None else _limits_path(user_id)
        response = yield from answered(
            Request(method="PUT", path=path, content=content), self.retries
        )
        return read(response, Limits if user_id is None else UserLimits)

    def plans(self) -> Items[Plan]:
        """Yield all plans by name, reading them page by page."""
        yield from paged("/v1/plans", {}, PlansPage, lambda page: page.plans, self.retries)

    def plan(self, name: str) -> Flow[Plan]:
        """Return a plan. Raises `NotFound`."""
        request = Request(method="GET", path=_plan_path(name))
        return (yield from answer_of(request, self.retries, Plan))

    def set_plan(  # noqa: PLR0913 (each is a limit)
        self,
        name: str,
        *,
        limit: int | UnsetType | None = UNSET,
        running: int | UnsetType | None = UNSET,
        windows: Sequence[Rate] | UnsetType | None = UNSET,
        throttle: Rate | UnsetType | None = UNSET,
        weight: float | UnsetType | None = UNSET,
        paused: bool | UnsetType | None = UNSET,
        max_attempts: int | UnsetType | None = UNSET,
        priority_max: int | UnsetType | None = UNSET,
    ) -> Flow[Plan]:
        """Set limits of a plan for all its users at once, or make it."""
        content = _given(
            limit=limit,
            running=running,
            windows=windows,
            throttle=throttle,
            weight=weight,
            paused=paused,
            max_attempts=max_attempts,
            priority_max=priority_max,
        )
        request = Request(method="PUT", path=_plan_path(name), content=content)
        return (yield from answer_of(request, self.retries, Plan))

    def delete_plan(self, name: str) -> Flow[None]:
        """Delete a plan. Raises `NotFound`, and `Conflict` while users are on it."""
        request = Request(method="DELETE", path=_plan_path(name), is_repeatable=False)
        yield from answered(request, self.retries)

    def kind(self, name: str) -> Flow[KindLimits]:
        """Return the limits of a kind, and how it stands."""
        request = Request(method="GET", path=_kind_path(name))
        return (yield from answer_of(request, self.retries, KindLimits))

    def set_kind(
        self,
        name: str,
        *,
        running: int | UnsetType | None = UNSET,
        throttle: Rate | UnsetType | None = UNSET,
        paused: bool | UnsetType | None = UNSET,
        timeout_seconds: float | UnsetType | None = UNSET,
        push: Push | UnsetType | None = UNSET,
    ) -> Flow[KindLimits]:
        """Set limits of a kind, and the endpoint that its jobs are posted to."""
        content = _given(
            running=running,
            throttle=throttle,
            paused=paused,
            timeout_seconds=timeout_seconds,
            push=push,
        )
        request = Request(method="PUT", path=_kind_path(name), content=content)
        return (yield from answer_of(request, self.retries, KindLimits))


def _given(**fields: object) -> bytes:
    return msgspec.json.encode(
        {name: value for name, value in fields.items() if value is not UNSET}
    )


def _limits_path(user_id: str) -> str:
    if not user_id:
        raise InvalidArguments("user_id is empty; the limits of all users are global_limits().")
    return f"/v1/limits/{quote(user_id, safe='')}"


def _kind_path(name: str) -> str:
    if not name:
        raise InvalidArguments("The name of a kind is empty.")
    return f"/v1/kinds/{quote(name, safe='')}"


def _plan_path(name: str) -> str:
    if not name:
        raise InvalidArguments("The name of a plan is empty.")
    return f"/v1/plans/{quote(name, safe='')}"
