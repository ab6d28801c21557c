from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from domain.decisions.answers import LimitsSet, RefusalsRecorded, Submitted
from domain.language.commands import ChangeLimit
from domain.language.errors import RateLimited
from domain.language.events import LimitChanged, RateLimitDecided, Scope
from domain.language.identifiers import GLOBAL, UserId
from domain.language.policy import Policy
from domain.limits.rate_limits import Counter as WindowCounter
from domain.limits.rate_limits import WindowState, window_start
from tests.support.given import NOW, Given, after, at, given, of
from tests.support.referee import Referee
from tests.support.stories import (
    ALICE,
    BOB,
    ECHO,
    admitted,
    refusals,
    submit,
    submitted,
)

OF_TWO = Policy(user_limit=2)


def refused(user_id: UserId = ALICE, used: int = 2, **details: object) -> RateLimitDecided:
    fields = {
        "scope": Scope.USER,
        "allowed": False,
        "limit": used,
        "window_start": NOW,
        "window_seconds": 60,
    }
    return RateLimitDecided(user_id=user_id, used=used, **(fields | details))  # type: ignore[arg-type]  # by name


REPORT = refusals(4, used=2, first_at=at(59), last_at=at(59))


def change(
    scope: Scope = Scope.USER,
    limit: int | UnsetType | None = UNSET,
    running: int | UnsetType | None = UNSET,
    user_id: UserId = ALICE,
) -> ChangeLimit:
    named = user_id if scope is Scope.USER else None
    return ChangeLimit(scope=scope, user_id=named, limit=limit, running=running)


def test_the_decision_that_lets_a_job_in_comes_before_it_and_carries_its_id() -> None:
    when = given().when(submit())
    when.then(of(2, admitted(used=1)), of(2, submitted()))
    assert when.answer(Submitted).decision == admitted(used=1)


def test_as_many_as_the_limit_are_let_in_and_no_more() -> None:
    story = given(policy=OF_TWO)
    for number in (1, 2):
        story = story.when(submit(payload=number)).then(
            admitted(used=number, limit=2), submitted(payload=number)
        )
    story.when(submit(payload=3)).then_refused(RateLimited, refused())


def test_in_one_batch_too_and_its_refusals_are_one_event_behind_the_rest() -> None:
    when = given(policy=OF_TWO).when(*[submit(payload=n) for n in (1, 2, 3, 4, 5)])
    assert when.events == [
        admitted(used=1, limit=2),
        submitted(payload=1),
        admitted(used=2, limit=2),
        submitted(payload=2),
        refused(count=3, first_at=NOW, last_at=NOW),
    ]
    assert [type(outcome) for outcome in when.outcomes] == [Submitted] * 2 + [RateLimited] * 3


def test_a_refusal_says_whose_limit_it_was_and_when_to_come_again() -> None:
    story = given(admitted(used=1), after(7), policy=Policy(user_limit=1))
    refusal = story.when(submit()).then_refused(RateLimited, refused(used=1))
    assert (refusal.scope, refusal.user_id, refusal.used, refusal.limit) == (
        Scope.USER,
        ALICE,
        1,
        1,
    )
    assert (refusal.decided_at, refusal.resets_at, refusal.window_seconds) == (at(7), at(60), 60)
    assert str(refusal) == (
        "The limit of 1 submissions in 60 s for user 'alice' is used up; "
        "try again after 2023-11-14T22:15:00Z."
    )


@pytest.mark.parametrize(
    ("seconds", "is_refused"), [(0, True), (59.999999, True), (60, False), (119.999999, False)]
)
def test_a_window_ends_where_the_next_begins_to_the_microsecond(
    seconds: float, *, is_refused: bool
) -> None:
    story = given(admitted(), policy=Policy(user_limit=1)).after(seconds)
    when = story.when(submit())
    if is_refused:
        when.then_refused(RateLimited, refused(used=1))
    else:
        starts = admitted(used=1, limit=1, window_start=at(60))
        when.then(starts, submitted(key_expires_at=at(seconds + 86_400)))


@pytest.mark.parametrize(
    ("now", "length", "start"),
    [
        (datetime(2026, 3, 1, 12, 0, 59, 999_999, UTC), 60, datetime(2026, 3, 1, 12, tzinfo=UTC)),
        (datetime(2026, 3, 1, 12, 1, tzinfo=UTC), 60, datetime(2026, 3, 1, 12, 1, tzinfo=UTC)),
        (datetime(2026, 3, 1, 12, 1, tzinfo=UTC), 3600, datetime(2026, 3, 1, 12, tzinfo=UTC)),
        (datetime(2024, 2, 29, 23, 59, tzinfo=UTC), 86_400, datetime(2024, 2, 29, tzinfo=UTC)),
        (datetime(1970, 1, 1, 0, 0, 6, tzinfo=UTC), 7, datetime(1970, 1, 1, tzinfo=UTC)),
        (datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC), 7, datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)),
    ],
)
def test_windows_are_aligned_to_the_epoch(now: datetime, length: int, start: datetime) -> None:
    assert window_start(now, length) == start


@for_all(
    now=st.datetimes(datetime(1970, 1, 1), datetime(8999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (the zone is added)
    length=st.integers(1, 2_678_400),
)
def test_every_moment_is_in_one_window(now: datetime, length: int) -> None:
    start = window_start(now, length)
    assert start <= now < start + timedelta(seconds=length)
    assert (start - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(seconds=length) == timedelta(0)


def test_the_limit_of_all_together_refuses_who_has_room_left() -> None:
    story = given(policy=Policy(global_limit=2))
    story = story.when(submit()).then(admitted(global_limit=2), submitted())
    bob = admitted(BOB, used=1, global_used=2, global_limit=2)
    story = story.when(submit(BOB)).then(bob, submitted(BOB))
    refusal = story.when(submit(BOB, payload=2)).then_refused(
        RateLimited, refused(BOB, 2, scope=Scope.GLOBAL)
    )
    assert refusal.scope is Scope.GLOBAL
    assert "all users together" in str(refusal)


def test_the_user_s_own_limit_is_looked_at_first() -> None:
    story = given(admitted(used=1), policy=Policy(user_limit=1, global_limit=1))
    story.when(submit()).then_refused(RateLimited, refused(used=1, scope=Scope.USER))
    story.when(submit(BOB)).then_refused(RateLimited, refused(BOB, used=1, scope=Scope.GLOBAL))


def test_a_limit_of_nothing_lets_nobody_in() -> None:
    given(policy=Policy(user_limit=0)).when(submit()).then_refused(RateLimited, refused(used=0))
    given(policy=Policy(global_limit=0)).when(submit()).then_refused(
        RateLimited, refused(used=0, scope=Scope.GLOBAL)
    )


def test_refusals_use_nothing_up_and_are_counted_beside_what_was_let_in() -> None:
    story = given(policy=OF_TWO).when(*[submit(payload=n) for n in range(7)]).so
    counters = story.model.windows.counters
    start = 1_700_000_040_000_000
    assert counters == {
        (ALICE, 60): WindowCounter(start, 2, 5),
        (GLOBAL, 60): WindowCounter(start, 2, 5),
    }


def test_refusals_are_put_together_for_each_user_and_each_limit_by_itself() -> None:
    story = given(policy=Policy(user_limit=1, global_limit=2))
    commands = [submit(who, payload=n) for n in range(2) for who in (ALICE, BOB, UserId("carol"))]
    assert story.when(*commands).events[4:] == [
        refused(UserId("carol"), 2, scope=Scope.GLOBAL, count=2, first_at=NOW, last_at=NOW),
        refused(ALICE, 1),
        refused(BOB, 1),
    ]


def test_what_was_refused_at_the_door_is_recorded_with_its_count_and_its_times() -> None:
    report = refusals(9, used=2, first_at=at(1), last_at=at(1.5))
    story = given(policy=OF_TWO).after(2)
    when = story.when(report)
    when.then(refused(count=9, first_at=at(1), last_at=at(1.5)))
    assert when.answer(RefusalsRecorded).count == 9
    used_up = given(admitted(used=1), admitted(used=2), after(2), policy=OF_TWO)
    together = used_up.when(submit(), report, submit())
    assert together.events == [refused(count=11, first_at=at(1), last_at=at(2))]


def test_a_report_that_comes_after_its_window_counts_in_the_window_that_it_names() -> None:
    counters = given().after(61).when(REPORT).so.model.windows.counters
    assert counters[ALICE, 60] == WindowCounter(1_700_000_040_000_000, 0, 4)


def test_of_each_user_the_latest_window_alone_is_known() -> None:
    story = given().when(submit(), submit(BOB)).so.after(60).when(submit(payload=2)).so
    story = story.when(REPORT, replace(REPORT, user_id=BOB)).so
    start, next_start = 1_700_000_040_000_000, 1_700_000_100_000_000
    assert story.model.windows.counters == {
        (ALICE, 60): WindowCounter(next_start, 1, 0),
        (BOB, 60): WindowCounter(start, 1, 4),
        (GLOBAL, 60): WindowCounter(next_start, 1, 0),
    }


def test_windows_of_several_lengths_are_counted_beside_each_other() -> None:
    """Windows as two servers with other settings wrote them."""
    story = given().when(submit()).so.under(window_seconds=3600).when(submit(payload=2)).so
    story = story.under(window_seconds=60).when(submit(payload=3)).so
    decided = [one.event for one in story.recorded if isinstance(one.event, RateLimitDecided)]
    assert [event.used for event in decided] == [1, 1, 2]


# Limits that change


def limits(limit: int | None = None, running: int | None = None) -> LimitChanged:
    return LimitChanged(scope=Scope.USER, user_id=ALICE, limit=limit, running=running)


def user_window(story: Given) -> WindowState:
    model = story.model
    return model.windows.user_window(model.limits, ALICE, story.policy, NOW)


def test_a_higher_limit_holds_from_now_on_for_the_window_that_goes_on() -> None:
    story = given(policy=OF_TWO).when(*[submit(payload=n) for n in range(3)]).so
    story = story.when(change(limit=3)).then(limits(3))
    third = admitted(used=3, limit=3)
    story = story.when(submit(payload=3)).then(third, submitted(payload=3))
    story.when(submit(payload=4)).then_refused(RateLimited, refused(used=3))


def test_a_lower_limit_takes_nothing_back_and_lets_nothing_in() -> None:
    story = given(policy=Policy(user_limit=5)).when(*[submit(payload=n) for n in range(4)]).so
    story = story.when(change(limit=2)).then(limits(2))
    story.when(submit(payload=9)).then_refused(RateLimited, refused(used=4, limit=2))
    assert user_window(story).remaining == 0


def test_a_change_and_submissions_of_one_batch_go_in_their_order() -> None:
    when = given(policy=OF_TWO).when(
        submit(payload=1),
        change(limit=1),
        submit(payload=2),
        change(limit=2),
        submit(payload=3),
        submit(payload=4),
    )
    assert when.events == [
        admitted(used=1, limit=2),
        submitted(payload=1),
        limits(1),
        refused(used=1, limit=1),
        limits(2),
        admitted(used=2, limit=2),
        submitted(payload=3),
        refused(used=2, limit=2),
    ]


def test_null_gives_the_default_again_and_what_is_not_named_stays() -> None:
    story = given()
    story = story.when(change(limit=5, running=2)).then(limits(5, 2))
    story = story.when(change(running=3)).then(limits(5, 3))
    story = story.when(change(limit=None)).then(limits(None, 3))
    assert user_window(story).limit == 600
    story = story.when(change(limit=0)).then(limits(0, 3))
    story = story.when(change(limit=None, running=None)).then(limits())
    assert story.when(change()).answer(LimitsSet).event == limits()


def test_what_changes_no_limit_is_no_event() -> None:
    story = given()
    assert story.when(change(limit=None, running=None)).events == []
    story = story.when(change(limit=5)).then(limits(5))
    for same in (change(limit=5), change(running=None), change(limit=5, running=None)):
        when = story.when(same)
        assert when.events == []
        assert when.answer(LimitsSet).event == limits(5)
    story.when(change(limit=None)).then(limits())
    twice = story.when(change(limit=6), change(limit=6), change(limit=5))
    assert twice.events == [limits(6), limits(5)]


def test_the_global_limit_changes_for_all() -> None:
    story = (
        given().when(change(Scope.GLOBAL, limit=0)).then(LimitChanged(scope=Scope.GLOBAL, limit=0))
    )
    story.when(submit(BOB)).then_refused(RateLimited, refused(BOB, used=0, scope=Scope.GLOBAL))


def test_the_limits_of_a_kind_are_no_limits_of_submissions() -> None:
    wish = ChangeLimit(scope=Scope.KIND, kind=ECHO, running=0)
    story = given().when(wish).then(LimitChanged(scope=Scope.KIND, kind=ECHO, running=0))
    story.when(submit()).then(admitted(), submitted())


def test_a_limit_for_one_is_none_for_another_nor_for_one_who_looks_alike() -> None:
    story = given(policy=OF_TWO).when(change(limit=0)).so
    for name in ("Alice", "alice ", "alicé", "bob"):
        decision = story.when(submit(UserId(name))).answer(Submitted).decision
        assert (decision.used, decision.limit) == (1, 2)
    assert story.when(change(limit=0, user_id=BOB)).so.model.limits.users.keys() == {ALICE, BOB}


@for_all(
    batches=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.000001, 20.0, 59.999999, 60.0]),
            st.lists(st.sampled_from([ALICE, BOB, UserId("carol")]), max_size=8),
        ),
        max_size=8,
    ),
    user_limit=st.integers(0, 5),
    global_limit=st.integers(0, 9),
)
def test_exactly_as_many_as_the_limits_allow_are_let_in_whatever_the_batches(
    batches: Sequence[tuple[float, Sequence[UserId]]], user_limit: int, global_limit: int
) -> None:
    policy = Policy(user_limit=user_limit, global_limit=global_limit)
    story = given(policy=policy)
    used: Counter[tuple[int, str]] = Counter()
    let_in: list[bool] = []
    expected: list[bool] = []
    clock = 0.0
    number = 0
    for seconds, users in batches:
        story = story.after(seconds)
        clock += seconds
        window = int(round(clock, 6) // 60)
        for user_id in users:
            has_room = used[window, user_id] < user_limit and used[window, ""] < global_limit
            expected.append(has_room)
            used[window, user_id] += has_room
            used[window, ""] += has_room
        when = story.when(*[submit(who, payload=number + n) for n, who in enumerate(users)])
        number += len(users)
        let_in += [isinstance(outcome, Submitted) for outcome in when.outcomes]
        story = when.so
    assert let_in == expected
    referee = Referee(policy)
    referee.see_all(story.recorded)
    decided = [one.event for one in story.recorded if isinstance(one.event, RateLimitDecided)]
    assert sum(one.count for one in decided) == len(expected)
