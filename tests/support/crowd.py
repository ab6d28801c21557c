"""A long log in which much happens to many, made quickly and the same way each time."""

import random
from collections.abc import Sequence

from msgspec import UNSET

from domain.decisions.answers import Claimed
from domain.jobs.job import Job
from domain.language.commands import (
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    EnforceDeadlines,
    ExtendLeases,
    FailJob,
    RetryJob,
    ReturnJob,
    SubmitJob,
)
from domain.language.events import Scope
from domain.language.identifiers import JobId, Kind, PlanName, UserId, WorkerId
from domain.language.limits import Rate
from domain.language.moments import later
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import ManualClock
from tests.support.core import outcomes, put
from tests.support.stories import ERROR, RESULT, body

KINDS = (Kind("echo"), Kind("thumb"), Kind("mail"))
GOLD = PlanName("gold")
SUBMISSIONS_PER_ROUND = 250


def crowd(fairlog: Fairlog, clock: ManualClock, events: int, users: int = 40) -> None:
    """Add at least so many events. The service needs a limit that its users can reach."""
    chance = random.Random(events)
    names = [UserId(f"user-{number}") for number in range(users)]
    number = 0
    while _position(fairlog) < events:
        number += 1
        _round(fairlog, clock, chance, names, number)


def _round(
    fairlog: Fairlog,
    clock: ManualClock,
    chance: random.Random,
    names: Sequence[UserId],
    number: int,
) -> None:
    outcomes(
        put(
            fairlog,
            *(
                _submission(clock, chance, chance.choice(names[: 2 + number * 3]), (number, index))
                for index in range(SUBMISSIONS_PER_ROUND)
            ),
        )
    )
    if number % 5 == 0:
        outcomes(put(fairlog, *_changes(chance, names)))
    worker = WorkerId(f"worker-{number % 3}")
    held: list[Job] = []
    claims = [ClaimJobs(worker=worker, max_jobs=100) for _ in range(2)]
    for answer in outcomes(put(fairlog, *claims)):
        assert isinstance(answer, Claimed)
        held += answer.jobs
    clock.advance(chance.choice([1, 3, 16]))
    if held:
        beating = [(job.id, job.attempt) for job in chance.sample(held, len(held) // 2)]
        outcomes(put(fairlog, ExtendLeases(worker=worker, jobs=beating)))
    ended = [_outcome(chance, job) for job in held]
    outcomes(put(fairlog, *[command for command in ended if command is not None]))
    position = _position(fairlog)
    some = [JobId(chance.randint(1, position)) for _ in range(60)]
    outcomes(
        put(
            fairlog,
            *(
                CancelJob(job_id=job_id) if chance.random() < 0.5 else RetryJob(job_id=job_id)
                for job_id in some
            ),
        )
    )
    outcomes(
        put(fairlog, EnforceDeadlines(jobs=fairlog.read_now(fairlog.with_saved_rows(fairlog._due))))
    )


def _submission(
    clock: ManualClock, chance: random.Random, user_id: UserId, payload: tuple[int, int]
) -> SubmitJob:
    return SubmitJob(
        user_id=user_id,
        kind=chance.choice(KINDS),
        payload=body(payload if chance.random() < 0.97 else 0),
        priority=chance.choice([0, 0, 0, 5]),
        run_at=later(clock.now(), 20) if chance.random() < 0.05 else None,
        expires_at=later(clock.now(), 10) if chance.random() < 0.05 else None,
    )


def _changes(chance: random.Random, names: Sequence[UserId]) -> list[Command]:
    return [
        ChangeLimit(
            scope=Scope.USER,
            user_id=chance.choice(names),
            limit=chance.choice([None, 3, 50]),
            running=chance.choice([None, 2]),
            plan=chance.choice([UNSET, None, GOLD]),
        ),
        ChangeLimit(scope=Scope.PLAN, plan=GOLD, limit=chance.choice([None, 60])),
        ChangeLimit(
            scope=Scope.USER_KIND,
            user_id=chance.choice(names),
            kind=KINDS[0],
            throttle=chance.choice([None, Rate(1_000_000, 1)]),
        ),
        ChangeLimit(scope=Scope.KIND, kind=KINDS[1], running=chance.choice([None, 500])),
        ChangeLimit(scope=Scope.GLOBAL, limit=chance.choice([None, 1200])),
    ]


def _outcome(chance: random.Random, job: Job) -> Command | None:
    match chance.choice("dddddffpr-"):
        case "d":
            return CompleteJob(job_id=job.id, attempt=job.attempt, result=RESULT)
        case "f":
            return FailJob(job_id=job.id, attempt=job.attempt, error=ERROR)
        case "p":
            return FailJob(job_id=job.id, attempt=job.attempt, error=ERROR, may_retry=False)
        case "r":
            return ReturnJob(job_id=job.id, attempt=job.attempt)
        case _:
            return None


def _position(fairlog: Fairlog) -> int:
    return fairlog.read_now(fairlog.log.position)
