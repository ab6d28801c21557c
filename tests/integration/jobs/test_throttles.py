"""Throttles, weights and resources over two services, through rows, and against a rebuild."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from domain.decisions.answers import Claimed, JobUpdated, LimitsSet, Submitted
from domain.language.bodies import body_of
from domain.language.commands import ChangeLimit, ClaimJobs, CompleteJob, SubmitJob
from domain.language.events import JobStarted, LineUpdated, Scope
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId, WorkerId
from domain.language.limits import Rate
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import ManualClock
from tests.support.core import do, log_of, service
from tests.support.inline_rows import rows_of
from tests.support.live_line import limit_kind, limit_resource, limit_user, limit_user_kind

ALICE, CALL = UserId("alice"), Kind("call")
SHOP = ResourceName("shopify:acme")
FIVE_PER_SECOND = Rate(5, 1)
WINDOWS = 12
OTHERS = [UserId(f"user-{number}") for number in range(20)]


@contextmanager
def two_services(database_url: str) -> Iterator[tuple[Fairlog, Fairlog, ManualClock]]:
    clock = ManualClock()
    with (
        service(database_url, clock=clock) as one,
        service(database_url, clock=clock) as other,
    ):
        yield one, other, clock


def submit(fairlog: Fairlog, user_id: UserId, jobs: int, **details: Any) -> None:
    outcomes = fairlog.writer.execute_all(
        [
            SubmitJob(
                user_id=user_id,
                kind=CALL,
                payload=body_of(number, "payload"),
                deduplicate=False,
                **details,
            )
            for number in range(jobs)
        ]
    )
    assert all(isinstance(one, Submitted) for one in outcomes)


def claim(fairlog: Fairlog, jobs_max: int = 1, worker: int = 0) -> Sequence[str]:
    """Claim jobs, complete them, and return their users."""
    command = ClaimJobs(worker=WorkerId(f"worker-{worker}"), max_jobs=jobs_max)
    jobs = do(fairlog, command, Claimed).jobs
    fairlog.writer.execute_all([CompleteJob(job_id=job.id, attempt=job.attempt) for job in jobs])
    return [job.user_id for job in jobs]


def set_limit(fairlog: Fairlog, command: ChangeLimit) -> None:
    do(fairlog, command, LimitsSet)


def assert_equals_rebuilt(fairlog: Fairlog) -> None:
    inline = rows_of(fairlog)
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline


@pytest.mark.parametrize(
    "limit",
    [
        limit_user(ALICE, throttle=FIVE_PER_SECOND),
        limit_kind(CALL, throttle=FIVE_PER_SECOND),
        limit_user_kind(ALICE, CALL, throttle=FIVE_PER_SECOND),
        limit_resource("shopify:*", throttle=FIVE_PER_SECOND),
    ],
    ids=lambda one: one.scope.value,
)
def test_a_throttle_is_exact_over_two_services_and_restarts(
    database_url: str, limit: ChangeLimit
) -> None:
    """Eight workers ask at two services, and at a third that is started in mid-window."""
    random = Random(3)
    with two_services(database_url) as (one, other, clock):
        set_limit(one, limit)
        submit(one, ALICE, 5 * WINDOWS + 3, resources=(SHOP,))
        start = clock.now()
        for window in range(WINDOWS):
            served: Counter[str] = Counter()
            for worker in range(8):
                served.update(claim(random.choice((one, other)), random.randint(1, 3), worker))
                if worker == 3 and window % 4 == 1:  # one that knows nothing yet
                    with service(database_url, clock=clock) as fresh:
                        served.update(claim(fresh, 1, worker))
            assert served == {ALICE: 5}, window
            clock.advance(1)
        by_window = Counter(
            int((event.recorded_at - start).total_seconds())
            for event in log_of(one)
            if isinstance(event.event, JobStarted)
        )
        assert by_window == dict.fromkeys(range(WINDOWS), 5)
        assert_equals_rebuilt(one)


def test_starts_count_after_a_longer_prefix_has_held_for_a_while(database_url: str) -> None:
    """A process that begins while the longer prefix holds knows them, too."""
    longer = ResourceName("shopify:ac*")
    with two_services(database_url) as (one, _, clock):
        set_limit(one, limit_resource("shopify:*", throttle=Rate(1, 60)))
        submit(one, ALICE, 3, resources=(SHOP,))
        assert claim(one, 3) == [ALICE]
        set_limit(one, limit_resource(longer, running=1))
        with service(database_url, clock=clock) as fresh:
            submit(fresh, ALICE, 1, resources=(SHOP,))
            set_limit(fresh, limit_resource(longer, running=None))
            assert claim(fresh, 3) == []
            clock.advance(60)
            assert claim(fresh, 3) == [ALICE]
            assert_equals_rebuilt(fresh)


def test_others_are_served_while_one_user_is_throttled(database_url: str) -> None:
    with two_services(database_url) as (one, other, clock):
        set_limit(one, limit_user(ALICE, throttle=Rate(1, 60)))
        submit(one, ALICE, 50)
        for user_id in OTHERS:
            submit(one, user_id, 2)
        assert claim(one, 21) == [ALICE, *OTHERS]
        assert claim(other, 41) == list(OTHERS)
        clock.advance(60)
        assert claim(other, 9) == [ALICE]


def test_a_user_whom_nobody_has_in_memory_is_brought_back_by_the_timer(database_url: str) -> None:
    with two_services(database_url) as (one, other, clock):
        set_limit(one, limit_user(ALICE, throttle=Rate(1, 60)))
        submit(one, ALICE, 5)
        assert claim(one, 9) == [ALICE]
        clock.advance(60)
        asyncio.run(other.enforce_deadlines())
        [update] = [event.event for event in log_of(one) if isinstance(event.event, LineUpdated)]
        assert update.users == (ALICE,)
        assert claim(other, 9) == [ALICE]
        asyncio.run(other.enforce_deadlines())
        assert_equals_rebuilt(one)


def test_a_changed_plan_reaches_users_of_whom_no_process_knows(database_url: str) -> None:
    gold = PlanName("gold")

    def plan(**limits: Any) -> ChangeLimit:
        return ChangeLimit(scope=Scope.PLAN, plan=gold, **limits)

    with two_services(database_url) as (one, other, _):
        set_limit(one, plan(paused=True))
        for user_id in OTHERS:
            set_limit(one, limit_user(user_id, plan=gold))
            submit(one, user_id, 1)
        assert claim(one, 50) == []
        set_limit(other, plan(paused=None))
        asyncio.run(other.enforce_deadlines())
        assert claim(other, 50) == list(OTHERS)
        assert_equals_rebuilt(one)


def test_users_are_served_by_weight_over_two_services(database_url: str) -> None:
    with two_services(database_url) as (one, other, _):
        weights = {ALICE: 1000, UserId("bob"): 100, UserId("carol"): 50}
        for user_id, weight in weights.items():
            set_limit(one, limit_user(user_id, weight=weight))
            submit(one, user_id, 120)
        served: Counter[str] = Counter()
        for number in range(23):
            served.update(claim((one, other)[number % 2], 5))
        assert served == {ALICE: 100, "bob": 10, "carol": 5}
        assert_equals_rebuilt(one)


def test_a_resource_runs_one_job_at_a_time_over_two_services(database_url: str) -> None:
    with two_services(database_url) as (one, other, _):
        set_limit(one, limit_resource("shopify:acme", running=1))
        for user_id in (ALICE, *OTHERS[:3]):
            submit(one, user_id, 2, resources=(SHOP,))
        served: list[str] = []
        for number in range(8):
            command = ClaimJobs(worker=WorkerId("w"), max_jobs=9)
            [job] = do((one, other)[number % 2], command, Claimed).jobs
            assert do((other, one)[number % 2], command, Claimed).jobs == []
            do(one, CompleteJob(job_id=job.id, attempt=job.attempt), JobUpdated)
            served.append(job.user_id)
        assert served == [ALICE, *OTHERS[:3]] * 2
        assert_equals_rebuilt(one)
