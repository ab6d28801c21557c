"""Shares and the promise of fair order, from the log of a service that decided by itself."""

import random
from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Connection

from adapters.settings import Settings
from domain.audit.fair_shares import FairShares, fair_shares
from domain.decisions.answers import Claimed, Submitted
from domain.jobs.job import Job
from domain.language.bodies import body_of
from domain.language.commands import ChangeLimit, ClaimJobs, CompleteJob, FailJob, SubmitJob
from domain.language.events import Scope
from domain.language.identifiers import Kind, UserId, WorkerId
from domain.language.moments import later
from entrypoints.composition import compose
from entrypoints.dashboard.recent_starts import RecentStarts, recent_starts
from entrypoints.service.fairlog import Fairlog
from projections.queries.oldest_waiting import OldestWaiting
from projections.storage import registry
from tests.support.clock import NOON, ManualClock
from tests.support.core import execute_now
from tests.support.prepared import prepare

A, B = Kind("a"), Kind("b")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    fairlog = compose(Settings(database_url=database_url), clock=clock)
    prepare(fairlog)
    fairlog.writer.start()
    yield fairlog
    fairlog.close()


def submit(fairlog: Fairlog, user: str, number: int, kind: Kind = A, delay: float = 0) -> Job:
    run_at = later(fairlog.read_now(fairlog.log.now), delay) if delay else None
    answer = execute_now(
        fairlog,
        SubmitJob(
            user_id=UserId(user), kind=kind, payload=body_of(number, "payload"), run_at=run_at
        ),
    )
    assert isinstance(answer, Submitted)
    return answer.job


def claim(fairlog: Fairlog, most: int = 1, *kinds: Kind) -> list[Job]:
    command = ClaimJobs(worker=WorkerId("w"), max_jobs=most, kinds=kinds or None)
    answer = execute_now(fairlog, command)
    assert isinstance(answer, Claimed)
    return list(answer.jobs)


def examined(fairlog: Fairlog) -> tuple[RecentStarts, FairShares]:
    def query(connection: Connection) -> tuple[RecentStarts, FairShares]:
        recent = recent_starts(connection)
        front = OldestWaiting(registry.current("line"), registry.current("jobs"))
        turns = [user_id for user_id, _ in fairlog.line.next_users(connection, 20)]
        jobs = front.next_jobs(connection, turns)
        users = front.users(connection, [one.user_id for one in recent.starts])
        limits = fairlog.windows.limits_of(connection, users)
        capped = {user_id for user_id in users if limits.limits_starts(user_id)}
        waiting = [job for one in jobs if (job := recent.waiting(one)) is not None]
        return recent, fair_shares(recent.starts, waiting, capped)

    return fairlog.read_now(fairlog.with_saved_rows(query))


def test_a_user_alone_in_line_got_nothing_from_others(fairlog: Fairlog) -> None:
    for number in range(20):
        submit(fairlog, "alice", number)
    claim(fairlog, 10)
    for number in range(2):
        submit(fairlog, "bob", number)
    claim(fairlog, 10)
    _, found = examined(fairlog)
    assert {one.user_id: (one.starts, one.contended) for one in found.shares} == {
        "alice": (18, 2),
        "bob": (2, 2),
    }
    assert found.passed_over == []


def test_a_wait_begins_when_a_job_joins_the_line(fairlog: Fairlog, clock: ManualClock) -> None:
    submit(fairlog, "alice", 1, delay=60)
    clock.advance(60)
    fairlog.recover(None)  # releases it
    clock.advance(5)
    [job] = claim(fairlog)
    execute_now(fairlog, FailJob(job_id=job.id, attempt=1, error=body_of("no", "error")))
    clock.advance(100)
    fairlog.recover(None)
    clock.advance(7)
    assert [one.id for one in claim(fairlog)] == [job.id]
    submit(fairlog, "alice", 2)
    clock.advance(2)
    claim(fairlog)
    recent, found = examined(fairlog)
    waited = [(one.at - one.ready_at).total_seconds() for one in recent.starts if one.ready_at]
    assert waited == [5.0, 7.0, 2.0]
    assert found.contended == [False, False, False]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_service_never_breaks_the_promise(
    fairlog: Fairlog, clock: ManualClock, seed: int
) -> None:
    chance = random.Random(seed)
    cap = ChangeLimit(scope=Scope.USER, user_id=UserId("capped"), running=1)
    execute_now(fairlog, cap)
    running: list[Job] = []
    for number in range(250):
        match chance.randrange(5):
            case 0 | 1:
                user = chance.choice(["acme", "acme", "acme", "bob", "carol", "capped"])
                delay = chance.choice([0, 0, 0, 3])
                submit(fairlog, user, number, chance.choice([A, B]), delay)
            case 2:
                running += claim(fairlog, chance.randint(1, 4), *chance.choice([(), (A,), (B,)]))
            case 3 if running:
                job = running.pop(chance.randrange(len(running)))
                if chance.random() < 0.5:
                    error = body_of("no", "error")
                    fail = FailJob(job_id=job.id, attempt=job.attempt, error=error)
                    execute_now(fairlog, fail)
                else:
                    end = CompleteJob(job_id=job.id, attempt=job.attempt, result=None)
                    execute_now(fairlog, end)
            case _:
                clock.advance(0.5)
                fairlog.recover(None)
    recent, found = examined(fairlog)
    assert len(recent.starts) > 30
    assert sum(found.contended) > 5
    assert found.passed_over == []
