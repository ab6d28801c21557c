"""A history of users on plans, a tenth of them held by a throttle, whose jobs use resources."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from domain.language.events import Event, LimitChanged, Scope
from domain.language.identifiers import PlanName, ResourceName, UserId
from domain.language.limits import Rate
from tests.benchmarks.history import HEAVY, Teller, Told

_PLENTY: Final = Rate(1_000_000, 60)
_ONE_PER_MONTH: Final = Rate(1, 31 * 86_400)
_HELD: Final = PlanName("held")
_PLANS: Final = {
    PlanName("gold"): LimitChanged(
        scope=Scope.PLAN, plan=PlanName("gold"), throttle=_PLENTY, weight=1_000
    ),
    PlanName("free"): LimitChanged(scope=Scope.PLAN, plan=PlanName("free"), throttle=_PLENTY),
    _HELD: LimitChanged(scope=Scope.PLAN, plan=_HELD, throttle=_ONE_PER_MONTH),
}


class LimitedTeller(Teller):
    """First the limits, then the starts that use throttles up, then jobs that wait.

    A tenth of the users may start one job a month, which they have started. A tenth of the
    resources, of as many other users, are paused.
    """

    def __init__(self, users: int, resources: int) -> None:
        """`resources` is a multiple of 10."""
        super().__init__(users)
        self._resources = resources
        self._limits = self._limit_events(users)
        self._held = (UserId(f"user-{number}") for number in range(5, users, 10))

    @staticmethod
    def parts(jobs: int, users: int, resources: int) -> int:
        """How often `tell` is to be called until so many jobs wait."""
        return len(_PLANS) + users + resources + len(range(5, users, 10)) + jobs

    def tell(self, now: datetime) -> list[Told]:
        """What comes next."""
        if (event := next(self._limits, None)) is not None:
            self.position += 1
            return [(event, None, None)]
        if (user_id := next(self._held, None)) is not None:
            return self.life(now, user_id)
        return self.submission(now)[2]

    def resources(self, user_id: UserId) -> tuple[ResourceName, ...]:
        number = 0 if user_id == HEAVY else int(user_id.removeprefix("user-"))
        return (_resource(number % self._resources),)

    def _limit_events(self, users: int) -> Iterator[Event]:
        yield from _PLANS.values()
        for number in range(users):
            plan = "held" if number % 10 == 5 else ("gold", "free")[number % 2]
            yield LimitChanged(
                scope=Scope.USER, user_id=UserId(f"user-{number}"), plan=PlanName(plan)
            )
        for number in range(self._resources):
            yield LimitChanged(
                scope=Scope.RESOURCE,
                resource=_resource(number),
                throttle=_PLENTY,
                running=_PLENTY.limit,
                paused=number % 10 == 3 or None,
            )


def _resource(number: int) -> ResourceName:
    return ResourceName(f"shop:{number}")
