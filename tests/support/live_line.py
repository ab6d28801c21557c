"""A write model that decides batch after batch, as the writer's does, with a clock of its own."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from domain.decisions.answers import Claimed
from domain.decisions.batch import Batch, Outcome
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import KnownLine
from domain.language.commands import ChangeLimit, Command
from domain.language.events import JobStarted, Recorded, Scope
from domain.language.identifiers import Kind, ResourceName, UserId
from domain.language.moments import later
from domain.language.policy import Policy
from tests.support.given import NOW
from tests.support.stories import claim

OPEN = Policy(user_limit=10**9, global_limit=10**9)


class LiveLine:
    """The state, all events so far, and the time."""

    def __init__(self, now: datetime = NOW, policy: Policy = OPEN) -> None:
        self.policy = policy
        self.model = WriteModel(KnownLine())
        self.recorded: list[Recorded] = []
        self.now = now

    def decide(self, *commands: Command) -> list[Outcome]:
        """Decide the commands as one batch; an error that is no refusal is raised."""
        batch = Batch(self.model, self.policy, self.now)
        outcomes = batch.decide_all(commands, _raise)
        self.recorded += batch.recorded
        return outcomes

    def wait(self, seconds: float) -> None:
        self.now = later(self.now, seconds)

    def claim(self, jobs_max: int = 1, *kinds: Kind) -> list[str]:
        """Claim jobs; return their users in the order in which they were served."""
        before = len(self.recorded)
        self.decide(claim(jobs_max, *kinds))
        return [start.user_id for start in starts(self.recorded[before:])]

    def claimed(self, jobs_max: int = 1) -> Claimed:
        """Claim jobs; return the answer."""
        [answer] = self.decide(claim(jobs_max))
        assert isinstance(answer, Claimed)
        return answer

    def rebuilt(self) -> WriteModel:
        """Return the state that a fold of all events gives."""
        model = WriteModel()
        for one in self.recorded:
            model.evolve(one)
        return model


def starts(recorded: Sequence[Recorded]) -> list[JobStarted]:
    return [one.event for one in recorded if isinstance(one.event, JobStarted)]


def limit_user(user_id: UserId, **limits: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.USER, user_id=user_id, **limits)


def limit_user_kind(user_id: UserId, kind: Kind, **limits: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.USER_KIND, user_id=user_id, kind=kind, **limits)


def limit_kind(kind: Kind, **limits: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.KIND, kind=kind, **limits)


def limit_resource(name: str, **limits: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.RESOURCE, resource=ResourceName(name), **limits)


def _raise(command: Command, error: Exception) -> None:
    raise AssertionError(command) from error
