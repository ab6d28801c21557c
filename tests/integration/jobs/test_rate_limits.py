"""Quotas that hold exactly over several servers, over restarts, and at the edges of windows."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from adapters.clock import SystemClock
from domain.decisions.answers import JobUpdated, LimitsSet, Submitted
from domain.decisions.batch import Outcome
from domain.language.commands import CancelJob, ChangeLimit, SaveProjections, SubmitJob
from domain.language.errors import KeyReusedWithOtherPayload, RateLimited
from domain.language.events import RateLimitDecided, Scope
from domain.language.identifiers import Kind, UserId
from domain.log.log_time import SECOND_LOOK_SECONDS
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.limit_reads import user_limits
from projections.inline.live import LiveProjections
from tests.support.clock import ManualClock
from tests.support.core import (
    do,
    events_in,
    execute_now,
    log_of,
    outcomes,
    put,
    service,
    writer_of,
)
from tests.support.given import NOW, at
from tests.support.referee import Referee
from tests.support.stories import ALICE, BOB, submit

CALLERS = 50


@contextmanager
def two_services(
    url: str, clock: ManualClock, **settings: Any
) -> Iterator[tuple[Fairlog, Fairlog]]:
    with ExitStack() as stack:
        one, other = (stack.enter_context(service(url, clock=clock, **settings)) for _ in range(2))
        yield one, other


def all_at_once(services: tuple[Fairlog, Fairlog], commands: list[SubmitJob]) -> list[Outcome]:
    """Execute from several threads, every other command on the other server, in order."""

    def call(numbered: tuple[int, SubmitJob]) -> Outcome:
        number, command = numbered
        [outcome] = outcomes(put(services[number % 2], command))
        return outcome

    with ThreadPoolExecutor(CALLERS) as threads:
        return list(threads.map(call, enumerate(commands)))


def decisions(fairlog: Fairlog) -> list[RateLimitDecided]:
    return [one.event for one in log_of(fairlog) if isinstance(one.event, RateLimitDecided)]


def types_of(found: list[Outcome]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in found)


def test_a_quota_holds_exactly_over_two_servers_that_are_asked_at_once(database_url: str) -> None:
    clock = ManualClock(at(7))
    with two_services(database_url, clock, user_limit=50) as services:
        found = all_at_once(services, [submit(payload=number) for number in range(500)])
        assert types_of(found) == {"Submitted": 50, "RateLimited": 450}
        for refusal in found:
            if isinstance(refusal, RateLimited):
                assert (refusal.used, refusal.limit, refusal.scope) == (50, 50, Scope.USER)
                assert (refusal.decided_at, refusal.resets_at) == (at(7), at(60))
        decided = decisions(services[0])
        assert sum(one.count for one in decided) == 500
        assert sorted(one.used for one in decided if one.allowed) == list(range(1, 51))
        assert min(one.writer.stats.commands for one in services) == 250
        Referee(services[0].policy).see_all(log_of(services[0]))


def test_the_limit_of_all_together_holds_exactly_too(database_url: str) -> None:
    clock = ManualClock()
    with two_services(database_url, clock, user_limit=9, global_limit=40) as services:
        users = [UserId(f"user-{number % 7}") for number in range(210)]
        found = all_at_once(services, [submit(who, payload=n) for n, who in enumerate(users)])
        assert types_of(found) == {"Submitted": 40, "RateLimited": 170}
        served = Counter(one.job.user_id for one in found if isinstance(one, Submitted))
        assert max(served.values()) <= 9
        Referee(services[0].policy).see_all(log_of(services[0]))


def test_a_restart_within_the_window_gives_nothing_back(database_url: str) -> None:
    clock = ManualClock()
    for turn in range(3):
        with service(database_url, clock=clock, user_limit=5) as fairlog:
            found = outcomes(put(fairlog, *[submit(payload=[turn, n]) for n in range(3)]))
            expected = [{"Submitted": 3}, {"Submitted": 2, "RateLimited": 1}, {"RateLimited": 3}]
            assert types_of(found) == expected[turn]
        clock.advance(19)
    clock.advance(3)  # the window is over
    with service(database_url, clock=clock, user_limit=5) as fairlog:
        assert types_of(outcomes(put(fairlog, submit(payload="later")))) == {"Submitted": 1}


def test_a_clock_that_jumps_back_gives_nothing_back(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock, user_limit=1) as fairlog:
        do(fairlog, submit(payload=1), Submitted)
        for jump in (-3600, -59):
            clock.step(jump)
            assert types_of(outcomes(put(fairlog, submit(payload=[jump])))) == {"ClockInDoubt": 1}
            clock.advance(SECOND_LOOK_SECONDS)
            assert types_of(outcomes(put(fairlog, submit(payload=[jump])))) == {"RateLimited": 1}
        clock.step(-4)  # so little that time stands still instead
        assert types_of(outcomes(put(fairlog, submit(payload=2)))) == {"RateLimited": 1}
        clock.advance(64)
        do(fairlog, submit(payload=2), Submitted)


@pytest.mark.parametrize("seconds", [0, 0.000001, 30, 59.999999])
def test_to_its_last_microsecond_a_window_is_used_up_and_then_it_is_not(
    database_url: str, seconds: float
) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock, user_limit=2) as fairlog:
        outcomes(put(fairlog, submit(payload=1), submit(payload=2)))
        clock.advance(seconds)
        assert types_of(outcomes(put(fairlog, submit(payload=3)))) == {"RateLimited": 1}
        clock.advance(60 - seconds)
        do(fairlog, submit(payload=3), Submitted)
        view = asyncio.run(user_limits(fairlog, ALICE))
        assert (view.used, view.remaining, view.resets_at) == (1, 1, at(120))


def test_window_edges_by_the_machine_s_own_clock(database_url: str) -> None:
    """Halves of seconds: freezegun counts by floating point, which holds those exactly."""
    with freeze_time(NOW) as frozen:
        assert isinstance(frozen, FrozenDateTimeFactory)
        with service(database_url, clock=SystemClock(), user_limit=2) as fairlog:
            assert types_of(outcomes(put(fairlog, *[submit(payload=n) for n in range(4)]))) == {
                "Submitted": 2,
                "RateLimited": 2,
            }
            frozen.tick(timedelta(seconds=59.5))
            [refusal] = outcomes(put(fairlog, submit(payload=9)))
            assert isinstance(refusal, RateLimited)
            assert (refusal.decided_at, refusal.resets_at) == (at(59.5), at(60))
            frozen.tick(timedelta(seconds=0.5))
            assert types_of(outcomes(put(fairlog, *[submit(payload=n + 9) for n in range(4)]))) == {
                "Submitted": 2,
                "RateLimited": 2,
            }
            frozen.tick(timedelta(days=365))
            do(fairlog, submit(payload="a year later"), Submitted)
            Referee(fairlog.policy).see_all(log_of(fairlog))


def test_a_limit_that_one_server_changes_holds_for_the_other_from_then_on(
    database_url: str,
) -> None:
    clock = ManualClock()
    with two_services(database_url, clock, user_limit=2) as (one, other):
        outcomes(put(other, submit(payload=1), submit(payload=2)))
        assert types_of(outcomes(put(other, submit(payload=3)))) == {"RateLimited": 1}
        do(one, ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=3), LimitsSet)
        assert do(other, submit(payload=3), Submitted).decision.limit == 3
        do(one, ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=None), LimitsSet)
        [refusal] = outcomes(put(other, submit(payload=4)))
        assert isinstance(refusal, RateLimited)
        assert (refusal.used, refusal.limit) == (3, 2)
        do(one, ChangeLimit(scope=Scope.GLOBAL, limit=3), LimitsSet)
        [refusal] = outcomes(put(other, submit(BOB)))
        assert isinstance(refusal, RateLimited)
        assert refusal.scope is Scope.GLOBAL


def test_only_the_limits_of_users_who_submit_are_read(database_url: str) -> None:
    """Any number of users may have one; those of kinds are read once, all together."""

    def cap(number: int, running: int) -> ChangeLimit:
        return ChangeLimit(scope=Scope.KIND, kind=Kind(f"kind-{number}"), running=running)

    with two_services(database_url, ManualClock()) as (one, other):
        outcomes(put(one, *(cap(number, 1) for number in range(30))))
        do(one, ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=3), LimitsSet)
        do(one, ChangeLimit(scope=Scope.USER, user_id=BOB, limit=3), LimitsSet)
        execute_now(one, SaveProjections())
        assert do(other, submit(), Submitted).decision.limit == 3
        projections = writer_of(other)._transactions._projections
        assert isinstance(projections, LiveProjections)
        read = projections._kept
        assert read is not None
        assert read.limits.users.keys() == {ALICE}
        assert len(read.limits.kinds) == 30
        events = events_in(one)
        do(other, cap(7, 1), LimitsSet)
        assert events_in(one) == events
        do(other, cap(7, 2), LimitsSet)
        do(one, cap(7, 2), LimitsSet)
        assert events_in(one) == events + 1


# Idempotency, which is exact for the same reason


def test_two_hundred_at_once_with_one_key_to_two_servers_are_one_job(database_url: str) -> None:
    clock = ManualClock()
    with two_services(database_url, clock) as services:
        found = all_at_once(services, [submit(idempotency_key="key")] * 200)
        answers = [one for one in found if isinstance(one, Submitted)]
        assert len(answers) == 200
        assert len({one.job.id for one in answers}) == 1
        assert sum(not one.is_duplicate for one in answers) == 1
        Referee(services[0].policy).see_all(log_of(services[0]))


def test_a_key_outlives_a_restart_and_ends_with_its_time_and_its_job(database_url: str) -> None:
    clock = ManualClock()
    keyed = submit(payload=1, idempotency_key="key")
    with service(database_url, clock=clock, idempotency_seconds=10) as fairlog:
        first = do(fairlog, keyed, Submitted).job.id
    with service(database_url, clock=clock, idempotency_seconds=10) as fairlog:
        again = do(fairlog, keyed, Submitted)
        assert (again.is_duplicate, again.job.id) == (True, first)
        [refusal] = outcomes(put(fairlog, submit(payload=2, idempotency_key="key")))
        assert isinstance(refusal, KeyReusedWithOtherPayload)
        clock.advance(9.999999)
        assert do(fairlog, keyed, Submitted).is_duplicate
        clock.advance(0.000001)
        assert do(fairlog, keyed, Submitted).is_duplicate  # it has not run yet
        do(fairlog, CancelJob(job_id=first), JobUpdated)
        assert not do(fairlog, submit(payload=2, idempotency_key="key"), Submitted).is_duplicate
        Referee(fairlog.policy).see_all(log_of(fairlog))
