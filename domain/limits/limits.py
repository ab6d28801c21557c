"""The limits that are set: of users, their kinds, plans, kinds, resources and all users together.

What is not set for a user follows from the user's plan. All that concerns no single user is always
in memory, so that the limits of any user, kind or resource need no further row.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple, TypeVar

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import astuple, replace

from domain.language.callbacks import CALLBACK_USERS
from domain.language.commands import ChangeLimit, DeletePlan, SubmitJob
from domain.language.errors import BeyondLimits, PlanInUse, TooManyLimits, UnknownPlan
from domain.language.events import JobSubmitted, LimitChanged, PlanDeleted, Recorded, Scope
from domain.language.identifiers import (
    DEFAULT_PLAN,
    GLOBAL,
    Kind,
    PlanName,
    ResourceName,
    UserId,
)
from domain.language.limits import PushEndpoint, Rate, RetryPolicy
from domain.log.folds import Folded, FoldMethods

V = TypeVar("V")

SUBJECTS_MAX: Final = 10_000  # kinds, resources, plans and users' kinds with limits, together

_NO_KIND: Final = Kind("")
_NO_RESOURCE: Final = ResourceName("")
_NO_PLAN: Final = PlanName("")


class Subject(NamedTuple):
    """The subject of limits; empty names do not belong to it. All empty: all users together."""

    user_id: UserId = GLOBAL
    kind: Kind = _NO_KIND  # of the user, if that is named, else of all users
    resource: ResourceName = _NO_RESOURCE  # a name, or a prefix and `*`
    plan: PlanName = _NO_PLAN

    @property
    def scope(self) -> Scope:
        if self.user_id:
            return Scope.USER_KIND if self.kind else Scope.USER
        if self.kind:
            return Scope.KIND
        if self.resource:
            return Scope.RESOURCE
        return Scope.PLAN if self.plan else Scope.GLOBAL


EVERYONE: Final = Subject()


class Limits(Struct, frozen=True, gc=False, omit_defaults=True):
    """The limits of one subject: the fields of `LimitChanged`. None: the default."""

    submissions: int | None = None  # per window; `LimitChanged.limit`
    running: int | None = None
    plan: PlanName | None = None  # that a user is on; of a plan, its own name
    windows: tuple[Rate, ...] | None = None
    throttle: Rate | None = None
    throttle_since: int | None = None  # position of the event that set the throttle
    weight: int | None = None
    paused: bool | None = None
    max_attempts: int | None = None
    priority_max: int | None = None
    retry: RetryPolicy | None = None
    timeout_seconds: float | None = None
    push: PushEndpoint | None = None

    def over(self, other: "Limits") -> "Limits":
        """Return these limits, with the other ones where these are not set."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Limits(*(theirs if own is None else own for own, theirs in pairs))


NONE: Final = Limits()
# Of the jobs that deliver callbacks to one host, unless it is put on a plan: a host that does not
# answer holds no more of the places of deliveries.
OF_DELIVERIES: Final = Limits(running=2)


@lru_cache(maxsize=10_000)  # users who are on a plan have mostly nothing else of their own
def _over(own: Limits, plan: Limits) -> Limits:
    return own.over(plan)


class LimitSettings(Folded):
    """The limits that are set, as far as they are in memory: all but those of users.

    A user who is in memory is there with the limits of their kinds.
    """

    def __init__(self) -> None:
        self.is_read = True  # the limits of all but users are in memory
        self._everyone: Limits | None = None  # None: never changed
        self.users: dict[UserId, Limits] = {}  # NONE: none are stored
        self.user_kinds: dict[UserId, dict[Kind, Limits]] = {}  # likewise
        self.plans: dict[PlanName, Limits] = {}
        self.kinds: dict[Kind, Limits] = {}
        self.resources: dict[ResourceName, Limits] = {}
        self.users_on: dict[PlanName, int] = {}  # users who have been put on a plan
        self.user_kinds_set = 0  # users' kinds with limits, in memory or not
        self.changed: set[Subject] = set()
        self._prefix_lengths: list[int] | None = None  # longest first; None: not known

    def evict_users(self) -> None:
        """Drop the limits of users and of their kinds, whose rows are written."""
        self.users.clear()
        self.user_kinds.clear()

    # Resolution

    @property
    def everyone(self) -> Limits:
        """The limits of all users together."""
        return self._everyone or NONE

    @property
    def has_changed_everyone(self) -> bool:
        """True if the limits of all users together were ever changed."""
        return self._everyone is not None

    def of_user(self, user_id: UserId) -> Limits:
        """Return a user's limits: each the user's own, else that of the user's plan.

        `plan` is the plan whose limits apply; None: no plan.
        """
        own = self.users.get(user_id, NONE)
        if own.plan is None and user_id.startswith(CALLBACK_USERS):
            return OF_DELIVERIES if own is NONE else _over(own, OF_DELIVERIES)
        plan = self.plans.get(own.plan or DEFAULT_PLAN)
        if plan is None:
            return own
        return plan if own is NONE else _over(own, plan)

    def plan_of(self, user_id: UserId) -> PlanName:
        """Return the plan that a user is on, whether it exists or not."""
        return self.users.get(user_id, NONE).plan or DEFAULT_PLAN

    def has_limits(self, user_id: UserId) -> bool:
        """Return True if anything is set for a user in memory, or for the user's plan."""
        return self.of_user(user_id) is not NONE or user_id in self.user_kinds

    def limits_starts(self, user_id: UserId) -> bool:
        """Return True if a limit of starts is set for a user in memory, or one of their kinds."""
        limits = self.of_user(user_id)
        own = (limits.running, limits.throttle, limits.paused or None)
        return any(one is not None for one in own) or user_id in self.user_kinds

    def of_kind(self, kind: Kind) -> Limits:
        return self.kinds.get(kind, NONE)

    def of_user_kind(self, user_id: UserId, kind: Kind) -> Limits:
        """Return the limits of a user's jobs of a kind, without those of the user or the kind."""
        return self.user_kinds.get(user_id, {}).get(kind, NONE)

    def of_resource(self, name: ResourceName) -> Limits:
        """Return the limits of a resource: its own, else those of the longest prefix that fits."""
        setting = self.resource_setting(name)
        return NONE if setting is None else self.resources[setting]

    def resource_setting(self, name: ResourceName) -> ResourceName | None:
        """Return the name or prefix whose limits a resource has; None: nothing is set."""
        return next(self._resource_settings(name), None)

    def may_throttle(self, name: ResourceName) -> bool:
        """Return True if a throttle is set for a resource, or for any prefix that fits.

        The longest prefix may have none: the throttle of a shorter one holds again, with the starts
        that it has counted, once the longer one is cleared.
        """
        return any(
            self.resources[setting].throttle is not None
            for setting in self._resource_settings(name)
        )

    def _resource_settings(self, name: ResourceName) -> Iterator[ResourceName]:
        """Yield the settings that fit a resource: its name, then prefixes, longest first."""
        if name in self.resources:
            yield name
        if self._prefix_lengths is None:
            prefixes = {len(one) - 1 for one in self.resources if one.endswith("*")}
            self._prefix_lengths = sorted(prefixes, reverse=True)
        for length in self._prefix_lengths:
            prefix = ResourceName(f"{name[:length]}*")
            if prefix in self.resources:
                yield prefix

    def of(self, subject: Subject) -> Limits:
        """Return what is set for a subject itself; NONE: nothing, and a plan does not exist."""
        match subject.scope:
            case Scope.USER:
                return self.users.get(subject.user_id, NONE)
            case Scope.USER_KIND:
                return self.of_user_kind(subject.user_id, subject.kind)
            case Scope.PLAN:
                return self.plans.get(subject.plan, NONE)
            case Scope.KIND:
                return self.kinds.get(subject.kind, NONE)
            case Scope.RESOURCE:
                return self.resources.get(subject.resource, NONE)
            case Scope.GLOBAL:
                return self.everyone

    def all_set(self) -> Iterator[tuple[Subject, Limits]]:
        """Yield the subjects in memory that have limits, in no order; all users together if they
        ever had any.
        """
        if self._everyone is not None:
            yield EVERYONE, self._everyone
        yield from ((Subject(plan=name), one) for name, one in self.plans.items())
        yield from ((Subject(kind=name), one) for name, one in self.kinds.items())
        yield from ((Subject(resource=name), one) for name, one in self.resources.items())
        for user_id, one in self.users.items():
            if one != NONE:
                yield Subject(user_id), one
        for user_id, kinds in self.user_kinds.items():
            for kind, one in kinds.items():
                if one != NONE:
                    yield Subject(user_id, kind), one

    @property
    def subjects(self) -> int:
        """The number of subjects that `SUBJECTS_MAX` bounds."""
        return len(self.plans) + len(self.kinds) + len(self.resources) + self.user_kinds_set

    def members(self, subject: Subject) -> int:
        """Return the users on a plan, or for all users together their kinds with limits.

        They are counted, since their own rows need not be in memory.
        """
        if subject == EVERYONE:
            return self.user_kinds_set
        return self.users_on.get(subject.plan, 0)

    def has(self, subject: Subject) -> bool:
        """Return True if a user, or a user's kind, is in memory, with limits or without."""
        if subject.kind:
            return subject.kind in self.user_kinds.get(subject.user_id, {})
        return subject.user_id in self.users

    # Changes

    def put(self, subject: Subject, limits: Limits) -> None:
        """Set what is known of a subject, without a change of any count."""
        match subject.scope:
            case Scope.USER:
                self.users[subject.user_id] = limits
            case Scope.USER_KIND:
                self.user_kinds.setdefault(subject.user_id, {})[subject.kind] = limits
            case Scope.PLAN:
                _set(self.plans, subject.plan, limits)
            case Scope.KIND:
                _set(self.kinds, subject.kind, limits)
            case Scope.RESOURCE:
                _set(self.resources, subject.resource, limits)
                self._prefix_lengths = None
            case Scope.GLOBAL:
                self._everyone = limits

    def put_members(self, subject: Subject, members: int) -> None:
        """Set the count that `members` returns."""
        if subject == EVERYONE:
            self.user_kinds_set = members
        elif subject.plan and members:
            self.users_on[subject.plan] = members

    def count_members(self) -> None:
        """Count what `members` returns, where all users are in memory."""
        self.users_on = dict(Counter(one.plan for one in self.users.values() if one.plan))
        self.user_kinds_set = sum(map(len, self.user_kinds.values()))

    def forget_removed(self) -> None:
        """Forget what only a writer needs: which limits changed, and who has none any more."""
        for subject in self.changed:
            if not subject.user_id or self.of(subject) != NONE:
                continue
            if subject.kind:
                self.user_kinds[subject.user_id].pop(subject.kind)
            else:
                self.users.pop(subject.user_id)
        self.changed.clear()

    def _limited(self, recorded: Recorded, event: LimitChanged) -> None:
        subject = subject_of(event)
        before, limits = self.of(subject), limits_of(event)
        if limits.throttle is not None:
            since = before.throttle_since if before.throttle == limits.throttle else None
            limits = replace(limits, throttle_since=since or recorded.position)
        self.put(subject, limits)
        self.changed.add(subject)
        if subject.scope is Scope.USER and before.plan != limits.plan:
            self._count_user(before.plan, -1)
            self._count_user(limits.plan, 1)
        elif subject.scope is Scope.USER_KIND and (before == NONE) != (limits == NONE):
            self.user_kinds_set += 1 if before == NONE else -1
            self.changed.add(EVERYONE)

    def _count_user(self, plan: PlanName | None, change: int) -> None:
        if plan is not None:
            self.users_on[plan] = self.users_on.get(plan, 0) + change
            if not self.users_on[plan]:
                del self.users_on[plan]
            self.changed.add(Subject(plan=plan))

    def _plan_deleted(self, _: Recorded, event: PlanDeleted) -> None:
        subject = Subject(plan=event.plan)
        self.put(subject, NONE)
        self.changed.add(subject)

    FOLDS: ClassVar[FoldMethods] = {LimitChanged: _limited, PlanDeleted: _plan_deleted}


def _set(known: dict[V, Limits], name: V, limits: Limits) -> None:
    if limits == NONE:
        known.pop(name, None)
    else:
        known[name] = limits


def subject_of(changed: LimitChanged | ChangeLimit) -> Subject:
    """Return the subject of a change; all users together if its names do not fit its scope."""
    plan = changed.plan if changed.scope is Scope.PLAN else None
    return Subject(
        changed.user_id or GLOBAL,
        changed.kind or _NO_KIND,
        changed.resource or _NO_RESOURCE,
        plan if isinstance(plan, str) else _NO_PLAN,
    )


def limits_of(event: LimitChanged) -> Limits:
    return Limits(
        submissions=event.limit,
        running=event.running,
        plan=event.plan,
        windows=event.windows,
        throttle=event.throttle,
        weight=event.weight,
        paused=event.paused,
        max_attempts=event.max_attempts,
        priority_max=event.priority_max,
        retry=event.retry,
        timeout_seconds=event.timeout_seconds,
        push=event.push,
    )


def decide_limit(settings: LimitSettings, command: ChangeLimit) -> LimitChanged:
    """Return the event of a change, which holds all limits of its subject, changed or not.

    Raises `UnknownPlan` and `TooManyLimits`.
    """
    subject = subject_of(command)
    before = settings.of(subject)
    event = LimitChanged(
        scope=command.scope,
        user_id=command.user_id,
        kind=command.kind,
        resource=command.resource,
        plan=_changed(command.plan, before.plan),
        limit=_changed(command.limit, before.submissions),
        running=_changed(command.running, before.running),
        windows=_changed(command.windows, before.windows),
        throttle=_changed(command.throttle, before.throttle),
        weight=_changed(command.weight, before.weight),
        paused=_changed(command.paused, before.paused),
        max_attempts=_changed(command.max_attempts, before.max_attempts),
        priority_max=_changed(command.priority_max, before.priority_max),
        retry=_changed(command.retry, before.retry),
        timeout_seconds=_changed(command.timeout_seconds, before.timeout_seconds),
        push=_changed(command.push, before.push),
    )
    if command.scope is Scope.USER and event.plan not in {None, before.plan}:
        _require_plan(settings, event.plan)
    is_bounded = command.scope not in {Scope.USER, Scope.GLOBAL}
    if is_bounded and before == NONE != limits_of(event) and settings.subjects >= SUBJECTS_MAX:
        raise TooManyLimits(SUBJECTS_MAX)
    return event


def decide_plan_deletion(settings: LimitSettings, command: DeletePlan) -> PlanDeleted:
    """Return the event of a deletion. Raises `UnknownPlan` and `PlanInUse`."""
    _require_plan(settings, command.plan)
    users = settings.users_on.get(command.plan, 0)
    if users:
        raise PlanInUse(command.plan, users)
    return PlanDeleted(plan=command.plan)


def check_bounds(limits: Limits, command: SubmitJob) -> None:
    """Raise `BeyondLimits` if a job asks for more than the limits of its user allow.

    A priority of 0 is not asked for: it is what a job has that says nothing.
    """
    most = limits.max_attempts
    if most is not None and command.max_attempts is not None and command.max_attempts > most:
        raise BeyondLimits(command.user_id, "max_attempts", most, limits.plan)
    highest = limits.priority_max
    if highest is not None and command.priority and command.priority > highest:
        raise BeyondLimits(command.user_id, "priority", highest, limits.plan)


def bounded(limits: Limits, submitted: JobSubmitted) -> JobSubmitted:
    """Return a job whose defaults are within the limits of its user too."""
    most, highest = limits.max_attempts, limits.priority_max
    if most is None and highest is None:
        return submitted
    attempts, priority = submitted.max_attempts, submitted.priority
    return replace(
        submitted,
        max_attempts=attempts if most is None else min(attempts, most),
        priority=priority if highest is None else min(priority, highest),
    )


def _require_plan(settings: LimitSettings, plan: PlanName | None) -> None:
    if plan is not None and plan not in settings.plans:
        raise UnknownPlan(plan)


def _changed(given: V | UnsetType, before: V) -> V:
    return before if given is UNSET else given
