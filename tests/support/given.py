"""`given(what happened).when(a wish).then(what follows)`: rules tested by themselves.

    given(SUBMITTED, started(attempt=1), after(31)).when(EnforceDeadlines(jobs=[1])).then(
        requeued(…)
    )

The history is folded, the commands are decided as one batch, and the events that come of it are
compared exactly: all of them, in order. An event of a job belongs to the latest submission before
it unless `of` says otherwise; a job's id is the position of its submission, counted from 1.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from domain.decisions.answers import Answer
from domain.decisions.batch import Batch, Outcome
from domain.decisions.decision import NewEvent
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import KnownLine
from domain.jobs.job import Job
from domain.language.commands import Command
from domain.language.errors import Refusal
from domain.language.events import (
    CallbackDeleted,
    CallbackSecretRotated,
    CallbackSet,
    Event,
    JobSubmitted,
    LeasesExtended,
    LimitChanged,
    PlanDeleted,
    RateLimitDecided,
    Recorded,
    ScheduleBackfillBegun,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleSet,
)
from domain.language.identifiers import ClaimHash, JobId
from domain.language.moments import from_micros, later, to_micros
from domain.language.policy import Policy

NOW = from_micros(1_700_000_040_000_000)  # 22:14:00: a window of 60 s begins
POLICY = Policy()

_OF_NO_JOB = (
    RateLimitDecided,
    LimitChanged,
    PlanDeleted,
    LeasesExtended,
    ScheduleSet,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleBackfillBegun,
    CallbackSet,
    CallbackDeleted,
    CallbackSecretRotated,
)

A = TypeVar("A", bound=Answer)
R = TypeVar("R", bound=Refusal)


class After(Struct, frozen=True):
    """Time goes by in a history."""

    seconds: float


def after(seconds: float) -> After:
    return After(seconds)


def at(seconds: float) -> datetime:
    """The moment so many seconds behind NOW, when every history begins."""
    return later(NOW, seconds)


def of(job_id: int, event: Event) -> NewEvent:
    """An event of another job than the latest."""
    return NewEvent(event, JobId(job_id))


def given(*happened: Event | NewEvent | After, policy: Policy = POLICY) -> "Given":
    return Given(policy).followed_by(*happened)


class Given:
    """A history. Each method gives a new one."""

    def __init__(
        self,
        policy: Policy,
        recorded: Sequence[Recorded] = (),
        now: datetime = NOW,
        empty_claims: Sequence[tuple[ClaimHash, datetime]] = (),
    ) -> None:
        self.policy = policy
        self.recorded = recorded
        self.now = now
        self.empty_claims = empty_claims  # answered with nothing, and when: beside the log

    def followed_by(self, *happened: Event | NewEvent | After) -> Self:
        recorded = list(self.recorded)
        now = self.now
        job_id = max((one.job_id or 0 for one in recorded), default=0)
        for one in happened:
            if isinstance(one, After):
                now = later(now, one.seconds)
                continue
            fact = one if isinstance(one, NewEvent) else NewEvent(one)
            position = len(recorded) + 1
            if isinstance(fact.event, JobSubmitted):
                job_id = position
            known = fact.job_id or _job_of(fact.event, job_id)
            recorded.append(Recorded(position, now, known, fact.event))
        return type(self)(self.policy, recorded, now, self.empty_claims)

    def after(self, seconds: float) -> Self:
        return self.followed_by(After(seconds))

    def under(self, **policy: Any) -> Self:
        """Return the history under another policy from here on."""
        policy_then = replace(self.policy, **policy)
        return type(self)(policy_then, self.recorded, self.now, self.empty_claims)

    @property
    def model(self) -> WriteModel:
        model = WriteModel(KnownLine())
        for one in self.recorded:
            model.evolve(one)
        for claim, made_at in self.empty_claims:
            model.jobs.claims.know(claim, to_micros(made_at))
        return model

    def job(self, job_id: int) -> Job:
        return self.model.jobs.rows[JobId(job_id)]

    def when(self, *commands: Command) -> "When":
        """Decide these as one batch."""
        model = self.model
        batch = Batch(model, self.policy, self.now)
        outcomes = batch.decide_all(commands, _raise)
        return When(self, batch.recorded, outcomes, batch.empty_claims, batch.bodies)


class When:
    """The result of a command. The checks return the history that includes it, to go on with."""

    def __init__(
        self,
        before: Given,
        recorded: Sequence[Recorded],
        outcomes: Sequence[Outcome],
        empty_claims: Sequence[ClaimHash],
        bodies: Sequence[tuple[int, bytes]],
    ) -> None:
        self._before = before
        self.recorded = recorded
        self.outcomes = outcomes
        self.bodies = bodies  # (position, body)
        self.empty_claims = empty_claims  # that are answered with nothing

    @property
    def events(self) -> list[Event]:
        return [one.event for one in self.recorded]

    @property
    def so(self) -> Given:
        """The history from here on, unchecked."""
        before = self._before
        empty = [(claim, before.now) for claim in self.empty_claims]
        return Given(
            before.policy,
            [*before.recorded, *self.recorded],
            before.now,
            [*before.empty_claims, *empty],
        )

    def then(self, *expected: Event | NewEvent) -> Given:
        """Exactly these, in order; a `NewEvent` names its job too. No command was refused."""
        assert [one for one in self.outcomes if isinstance(one, Exception)] == []
        return self._followed(*expected)

    def then_nothing(self) -> Given:
        return self.then()

    def then_refused(self, rule: type[R], *expected: Event | NewEvent) -> R:
        """The only command was refused by this rule, and just these events record it."""
        [outcome] = self.outcomes
        assert type(outcome) is rule, outcome
        self._followed(*expected)
        return outcome

    def answer(self, expected: type[A]) -> A:
        """Return the answer to the only command."""
        [outcome] = self.outcomes
        assert isinstance(outcome, expected), outcome
        return outcome

    def _followed(self, *expected: Event | NewEvent) -> Given:
        found = [
            NewEvent(one.event, one.job_id) if isinstance(wanted, NewEvent) else one.event
            for one, wanted in zip(self.recorded, expected, strict=False)
        ]
        assert found == list(expected)
        assert self.events[len(found) :] == []
        return self.so


def _job_of(event: Event, latest: int) -> JobId | None:
    if isinstance(event, _OF_NO_JOB):
        return None
    return JobId(latest)


def _raise(command: Command, error: Exception) -> None:
    raise AssertionError(f"{command} could not be decided") from error
