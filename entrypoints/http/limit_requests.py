"""Bodies of requests that change limits. A field that is left out is not changed; null is the
default again.

Every method `to_command` raises `InvalidInput` for a value that the types do not check.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from domain.language import validation
from domain.language.commands import ChangeLimit
from domain.language.errors import InvalidInput
from domain.language.events import Scope
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId
from domain.language.limits import Rate
from domain.language.push_fields import PushFields
from domain.language.ranges import (
    Limit,
    MaxAttempts,
    Name,
    Priority,
    TimeoutSeconds,
    Weight,
    WindowSeconds,
)
from domain.language.retry_fields import RetryFields
from entrypoints.runtime.durations import parse_duration


class RateFields(Struct, forbid_unknown_fields=True):
    """A limit in each window of some length; windows are aligned to Unix time 0."""

    limit: Annotated[Limit, Meta(description="At most so many in a window.")]
    seconds: Annotated[WindowSeconds, Meta(description="The length of the window in seconds.")]


_RATE: Final = re.compile(r"([0-9]{1,18})/([0-9]{1,9}[smhd]|[0-9]{1,9})")


def parse_rate(text: str) -> RateFields:
    """Parse a limit and a length of time, like 5/1s, 1000/1h or 5/30. Raises `ValueError`."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"no rate: {text!r}")
    length = found[2]
    return RateFields(int(found[1]), int(length) if length.isdecimal() else parse_duration(length))


_Running = Annotated[
    Limit | UnsetType | None, Meta(description="Jobs that run at once. null: no cap of its own.")
]
_Throttle = Annotated[
    RateFields | UnsetType | None,
    Meta(
        description="A limit, at least 1, of starts of jobs in a window; the others wait. null: no "
        "limit of its own."
    ),
]
_Paused = Annotated[
    bool | UnsetType | None,
    Meta(description="true: no job starts; submissions are taken. null: no pause of its own."),
]


class LimitChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """New limits of a user, a plan, or all users together. Those of a plan hold for each of its
    users.
    """

    limit: Annotated[
        Limit | UnsetType | None,
        Meta(description="Submissions per window of the server. null: the default."),
    ] = UNSET
    running: Annotated[
        Limit | UnsetType | None,
        Meta(
            description="Jobs of a user that run at once; not for all users together. null: no cap "
            "of its own."
        ),
    ] = UNSET
    windows: Annotated[
        Sequence[RateFields] | UnsetType | None,
        Meta(
            description="Further limits of submissions, at most 5; all have to allow. null: the "
            "plan's, or none. An empty list: none."
        ),
    ] = UNSET
    throttle: Annotated[
        RateFields | UnsetType | None,
        Meta(
            description="A limit, at least 1, of starts of a user's jobs in a window; the others "
            "wait. Not for all users together. null: no limit of its own."
        ),
    ] = UNSET
    weight: Annotated[
        Weight | UnsetType | None,
        Meta(
            description="The share of the service in proportion to other users', 0.01 to 1000; not "
            "for all users together. null: the plan's, or 1."
        ),
    ] = UNSET
    plan: Annotated[
        Name | UnsetType | None,
        Meta(
            description="The plan that the user is on; not for a plan or all users together. null: "
            "the plan `default`, if it is set."
        ),
    ] = UNSET
    paused: _Paused = UNSET
    max_attempts: Annotated[
        MaxAttempts | UnsetType | None,
        Meta(
            description="The most attempts that a job may ask for; not for all users together. "
            "null: the plan's, or any number."
        ),
    ] = UNSET
    priority_max: Annotated[
        Priority | UnsetType | None,
        Meta(
            description="The highest priority that a job may ask for; not for all users together. "
            "null: the plan's, or any."
        ),
    ] = UNSET

    def of_user(self, user_id: UserId) -> ChangeLimit:
        _require_any(self)
        plan = validation.plan_name(self.plan) if isinstance(self.plan, str) else self.plan
        return self._command(Scope.USER, user_id, plan)

    def of_plan(self, plan: PlanName) -> ChangeLimit:
        if self.plan is not UNSET:
            raise InvalidInput("A plan is on no plan: leave out plan, or send it for a user.")
        return self._command(Scope.PLAN, None, plan)

    def of_all(self) -> ChangeLimit:
        _require_any(self)
        if isinstance(self.running, int):
            raise InvalidInput(
                "running limits a user or a kind; no global limit of running jobs exists."
            )
        for name in _NOT_OF_ALL:
            value = getattr(self, name)
            if value is not UNSET and value is not None:
                raise InvalidInput(
                    f"{name} is for a user or a plan; for users on no other plan, set it for the "
                    "plan default (PUT /v1/plans/default)."
                )
        return self._command(Scope.GLOBAL, None, UNSET)

    def _command(
        self, scope: Scope, user_id: UserId | None, plan: PlanName | UnsetType | None
    ) -> ChangeLimit:
        return ChangeLimit(
            scope=scope,
            user_id=user_id,
            plan=plan,
            limit=self.limit,
            running=self.running,
            windows=validation.windows([Rate(one.limit, one.seconds) for one in self.windows])
            if isinstance(self.windows, Sequence)
            else self.windows,
            throttle=_throttle(self.throttle),
            weight=validation.weight(self.weight)
            if isinstance(self.weight, float)
            else self.weight,
            paused=self.paused,
            max_attempts=self.max_attempts,
            priority_max=self.priority_max,
        )


_NOT_OF_ALL: Final = ("throttle", "weight", "plan", "max_attempts", "priority_max")


class StartLimitChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """New limits of the jobs of a user's kind, or of those that use a resource."""

    running: _Running = UNSET
    throttle: _Throttle = UNSET
    paused: _Paused = UNSET

    def of_user_kind(self, user_id: UserId, kind: Kind) -> ChangeLimit:
        return self._command(ChangeLimit(scope=Scope.USER_KIND, user_id=user_id, kind=kind))

    def of_resource(self, resource: ResourceName) -> ChangeLimit:
        return self._command(ChangeLimit(scope=Scope.RESOURCE, resource=resource))

    def of_kind(self, kind: Kind) -> ChangeLimit:
        return self._command(ChangeLimit(scope=Scope.KIND, kind=kind))

    def _command(self, subject: ChangeLimit) -> ChangeLimit:
        _require_any(self)
        return replace(
            subject,
            running=self.running,
            throttle=_throttle(self.throttle),
            paused=self.paused,
        )


class KindChange(StartLimitChange, forbid_unknown_fields=True, kw_only=True):
    """New limits of a kind, and what its jobs are submitted with if they say nothing themselves."""

    retry: Annotated[
        RetryFields | UnsetType | None,
        Meta(description="When failed attempts are followed by another. null: the server's."),
    ] = UNSET
    timeout_seconds: Annotated[
        TimeoutSeconds | UnsetType | None,
        Meta(description="The time-out of an attempt in seconds. null: the server's."),
    ] = UNSET
    push: Annotated[
        PushFields | UnsetType | None,
        Meta(description="The endpoint that servers post its jobs to. null: workers claim them."),
    ] = UNSET

    def of_kind(self, kind: Kind) -> ChangeLimit:
        seconds = self.timeout_seconds
        return replace(
            super().of_kind(kind),
            retry=self.retry.to_policy() if isinstance(self.retry, RetryFields) else self.retry,
            timeout_seconds=validation.timeout_seconds(seconds)
            if isinstance(seconds, float)
            else seconds,
            push=self.push.to_endpoint() if isinstance(self.push, PushFields) else self.push,
        )


def _throttle(fields: RateFields | UnsetType | None) -> Rate | UnsetType | None:
    if not isinstance(fields, RateFields):
        return fields
    rate = validation.rate(fields.limit, fields.seconds, "throttle")
    if not rate.limit:
        raise InvalidInput("A throttle has a limit of at least 1; to start no job, set paused.")
    return rate


def _require_any(change: Struct) -> None:
    names = change.__struct_fields__
    if all(getattr(change, name) is UNSET for name in names):
        raise InvalidInput(f"Send at least one of {', '.join(names)}; null is the default again.")
