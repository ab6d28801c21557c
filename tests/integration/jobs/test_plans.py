"""Plans and several windows over two servers, exactly, and as of any position of the log."""

from concurrent.futures import ThreadPoolExecutor

from domain.decisions.answers import LimitsSet, Submitted
from domain.language.commands import ChangeLimit
from domain.language.errors import RateLimited
from domain.language.events import LimitChanged, RateLimitDecided, Scope
from domain.language.identifiers import DEFAULT_PLAN, PlanName, UserId
from domain.language.limits import Rate
from entrypoints.use_cases.verification import verify_log
from projections.following.snapshots import current, state_at
from tests.integration.jobs.test_rate_limits import all_at_once, two_services, types_of
from tests.support.clock import ManualClock
from tests.support.core import do, log_of, outcomes, put
from tests.support.given import at
from tests.support.stories import ALICE, submit

GOLD = PlanName("gold")
WINDOWS = (Rate(10, 1), Rate(100, 60))


def test_ten_a_second_and_a_hundred_a_minute_hold_exactly_over_two_servers(
    database_url: str,
) -> None:
    clock = ManualClock(at(0.5))
    with two_services(database_url, clock) as services:
        one, _ = services
        do(one, ChangeLimit(scope=Scope.PLAN, plan=DEFAULT_PLAN, windows=WINDOWS), LimitsSet)
        found = all_at_once(services, [submit(payload=number) for number in range(500)])
        assert types_of(found) == {"Submitted": 10, "RateLimited": 490}
        for refusal in found:
            if isinstance(refusal, RateLimited):
                assert refusal.decision.window_name == "user-1s"
                assert (refusal.used, refusal.limit, refusal.resets_at) == (10, 10, at(1))
        for second in range(1, 11):
            clock.advance(1)
            some = [submit(payload=[second, number]) for number in range(30)]
            found = all_at_once(services, some)
            admitted = 10 if second < 10 else 0
            assert types_of(found)["Submitted"] == admitted
        assert {
            (one.decision.window_name, one.used, one.limit, one.resets_at)
            for one in found
            if isinstance(one, RateLimited)
        } == {("user-60s", 100, 100, at(60))}
        uses = [
            tuple(window.used for window in event.windows)
            for event in (recorded.event for recorded in log_of(one))
            if isinstance(event, RateLimitDecided) and event.allowed
        ]
        assert uses == [(number % 10 + 1, number + 1) for number in range(100)]
        assert verify_log(one, print, lambda _done, _total: None).is_clean
        clock.advance(50)
        assert types_of(outcomes(put(one, submit(payload="next minute")))) == {"Submitted": 1}


def test_a_plan_changed_under_load_holds_for_each_decision_after_its_event(
    database_url: str,
) -> None:
    clock = ManualClock(at(0.5))
    with two_services(database_url, clock) as services:
        one, other = services
        do(one, ChangeLimit(scope=Scope.PLAN, plan=GOLD, limit=1_000), LimitsSet)
        do(one, ChangeLimit(scope=Scope.USER, user_id=ALICE, plan=GOLD), LimitsSet)
        before = log_of(one)[-1].position
        with ThreadPoolExecutor(1) as beside:
            jobs = [submit(payload=number) for number in range(200)]
            load = beside.submit(all_at_once, services, jobs)
            lower = ChangeLimit(scope=Scope.PLAN, plan=GOLD, limit=50)
            do(other, lower, LimitsSet)
            found = load.result()
        recorded = log_of(one)
        [changed] = [
            one.position
            for one in recorded
            if isinstance(one.event, LimitChanged) and one.event.limit == 50
        ]
        assert types_of(found)["Submitted"] >= 50
        for event in recorded:
            if isinstance(event.event, RateLimitDecided) and event.event.allowed:
                assert event.event.limit == (50 if event.position > changed else 1_000)
                assert event.position < changed or event.event.used <= 50
        with one.database.read() as connection:
            limits = [
                state_at(connection, current(), one.log.read, position).limits.of_user(ALICE)
                for position in (before, changed - 1, changed)
            ]
        assert [(one.plan, one.submissions) for one in limits] == [
            (GOLD, 1_000),
            (GOLD, 1_000),
            (GOLD, 50),
        ]


def test_a_plan_of_very_many_users_is_changed_by_one_event_and_no_row_of_theirs(
    database_url: str,
) -> None:
    clock = ManualClock(at(0.5))
    with two_services(database_url, clock) as (one, other):
        do(one, ChangeLimit(scope=Scope.PLAN, plan=GOLD, limit=9), LimitsSet)
        users = [UserId(f"user-{number}") for number in range(2_000)]
        on_gold = [ChangeLimit(scope=Scope.USER, user_id=user, plan=GOLD) for user in users]
        outcomes(put(one, *on_gold))
        events = len(log_of(one))
        do(one, ChangeLimit(scope=Scope.PLAN, plan=GOLD, limit=8), LimitsSet)
        assert len(log_of(one)) == events + 1
        for user in users[::500]:
            assert do(other, submit(user), Submitted).decision.limit == 8
