"""Recorded submissions decided again: exactly where that can be known, else within bounds."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.audit.whatif import (
    CLOSING_SECONDS,
    Defaults,
    OtherLimits,
    Outcome,
    WhatIf,
    warm_up_from,
)
from domain.language.commands import ChangeLimit, SubmitJob
from domain.language.events import LimitChanged, RateLimitDecided, Recorded, Scope
from domain.language.identifiers import PlanName, UserId
from domain.language.limits import Rate
from domain.language.moments import later
from domain.language.policy import Policy
from domain.limits.rate_limits import window_start
from tests.support.given import NOW, Given, at, given
from tests.support.stories import ALICE, BOB, CAROL, submit

SMALL = Policy(user_limit=3, global_limit=7)
DEFAULTS = Defaults(3, 7)


def replay(
    recorded: Sequence[Recorded], since: datetime | None = None, **other: Any
) -> tuple[dict[UserId, Outcome], Outcome]:
    what_if = WhatIf(OtherLimits(**other), Defaults(3, 7), since)
    for one in recorded:
        what_if.take(one)
    total = what_if.finish()
    return what_if.users, total


def happened(recorded: Sequence[Recorded]) -> dict[UserId, tuple[int, int]]:
    """Admitted and refused, of each user."""
    admitted: Counter[UserId] = Counter()
    refused: Counter[UserId] = Counter()
    for one in recorded:
        if isinstance(one.event, RateLimitDecided):
            (admitted if one.event.allowed else refused)[one.event.user_id] += one.event.count
    return {user: (admitted[user], refused[user]) for user in admitted | refused}


def submissions(*users: UserId, first: int = 0) -> list[SubmitJob]:
    return [submit(user, payload=first + number) for number, user in enumerate(users)]


def refused(
    count: int, first: float, last: float, user: UserId = ALICE, recorded: float | None = None
) -> Recorded:
    return Recorded(
        1,
        at(last if recorded is None else recorded),
        None,
        RateLimitDecided(
            user_id=user,
            scope=Scope.USER,
            allowed=False,
            used=3,
            limit=3,
            window_start=window_start(at(first), 60),
            window_seconds=60,
            count=count,
            first_at=at(first),
            last_at=at(last),
        ),
    )


def allowed(user: UserId, moment: float, used: int = 1) -> Recorded:
    return Recorded(
        1,
        at(moment),
        None,
        RateLimitDecided(
            user_id=user,
            scope=Scope.USER,
            allowed=True,
            used=used,
            limit=3,
            window_start=window_start(at(moment), 60),
            window_seconds=60,
        ),
    )


# What truly happens: batches of submissions and limit changes, and pauses between them.
USERS = st.sampled_from([ALICE, BOB, CAROL])
CHANGES = st.builds(
    lambda scope, limit: ChangeLimit(
        scope=scope, user_id=ALICE if scope is Scope.USER else None, limit=limit
    ),
    st.sampled_from([Scope.USER, Scope.GLOBAL]),
    st.none() | st.integers(0, 9),
)
BATCHES = st.lists(
    st.tuples(st.lists(USERS | CHANGES, max_size=12), st.sampled_from([0, 1, 25, 60])), max_size=12
)


def history(batches: Sequence[tuple[Sequence[UserId | ChangeLimit], int]]) -> Given:
    story = given(policy=SMALL)
    number = 0
    for wishes, pause in batches:
        commands: list[SubmitJob | ChangeLimit] = []
        for wish in wishes:
            number += 1
            commands.append(wish if isinstance(wish, ChangeLimit) else submit(wish, payload=number))
        story = story.when(*commands).so.after(pause)
    return story


@for_all(batches=BATCHES)
def test_with_the_recorded_limits_exactly_what_was_recorded(
    batches: list[tuple[list[UserId | ChangeLimit], int]],
) -> None:
    recorded = history(batches).recorded
    users, total = replay(recorded)
    assert {user: (one.admitted, one.refused) for user, one in users.items()} == happened(recorded)
    for one in [*users.values(), total]:
        assert one.would_be_admitted == one.admitted
        assert not one.is_estimate


@for_all(batches=BATCHES)
def test_the_recorded_limits_given_as_others_change_nothing_either(
    batches: list[tuple[list[UserId | ChangeLimit], int]],
) -> None:
    plain = [
        ([wish for wish in wishes if not isinstance(wish, ChangeLimit)], pause)
        for wishes, pause in batches
    ]
    recorded = history(plain).recorded
    _, total = replay(recorded, user_limit=3, global_limit=7, window_seconds=60)
    assert total.would_be_admitted == total.admitted
    assert not total.is_estimate


@for_all(
    batches=BATCHES,
    user_limit=st.integers(0, 12),
    global_limit=st.integers(0, 25),
    window_seconds=st.sampled_from([60, 20, 7, 120]),
)
def test_the_truth_lies_within_the_bounds(
    batches: list[tuple[list[UserId | ChangeLimit], int]],
    user_limit: int,
    global_limit: int,
    window_seconds: int,
) -> None:
    """The same submissions to a service that has those limits, in the order they truly came in."""
    plain = [
        ([wish for wish in wishes if not isinstance(wish, ChangeLimit)], pause)
        for wishes, pause in batches
    ]
    users, _ = replay(
        history(plain).recorded,
        user_limit=user_limit,
        global_limit=global_limit,
        window_seconds=window_seconds,
    )
    used: Counter[tuple[UserId | None, datetime]] = Counter()
    truth: Counter[UserId] = Counter()
    now = NOW
    for wishes, pause in plain:
        for user in wishes:
            window = window_start(now, window_seconds)
            if used[user, window] < user_limit and used[None, window] < global_limit:
                used.update([(user, window), (None, window)])
                truth[user] += 1
        now = later(now, pause)
    for user, one in users.items():
        assert one.at_least <= truth[user] <= one.at_most
        assert one.at_least <= one.would_be_admitted <= one.at_most


def test_a_higher_limit_admits_what_was_refused() -> None:
    story = given(policy=SMALL).when(*submissions(*[ALICE] * 6, BOB)).so
    users, total = replay(story.recorded, user_limit=5)
    assert (users[ALICE].admitted, users[ALICE].refused) == (3, 3)
    assert (users[ALICE].would_be_admitted, users[ALICE].would_be_refused) == (5, 1)
    assert (total.admitted, total.would_be_admitted, total.is_estimate) == (4, 6, False)


def test_a_lower_limit_of_all_refuses_those_who_came_last() -> None:
    story = given(policy=SMALL).when(*submissions(ALICE, BOB, BOB, CAROL)).so
    users, _ = replay(story.recorded, global_limit=2)
    assert [users[user].would_be_admitted for user in (ALICE, BOB, CAROL)] == [1, 1, 0]


def test_a_change_of_limits_is_honoured_where_no_other_is_asked_for() -> None:
    raised = ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=5)
    story = given(policy=SMALL).when(*submissions(*[ALICE] * 4)).so
    story = story.when(raised).so.when(*submissions(*[ALICE] * 3, first=10)).so
    assert replay(story.recorded, global_limit=100)[1].would_be_admitted == 5
    assert replay(story.recorded, user_limit=4)[1].would_be_admitted == 4


def test_refusals_put_together_over_a_new_windows_border_are_an_estimate_with_bounds() -> None:
    recorded = [
        allowed(ALICE, 0, 1),
        allowed(ALICE, 0, 2),
        allowed(ALICE, 0, 3),
        refused(10, 19.5, 20.5),
    ]
    users, _ = replay(recorded, user_limit=6, window_seconds=20)
    one = users[ALICE]
    assert (one.admitted, one.refused) == (3, 10)
    assert (one.at_least, one.at_most) == (3, 12)
    assert one.would_be_admitted == 3 + 3 + 5
    assert one.is_estimate
    assert not replay(recorded, user_limit=6, window_seconds=30)[1].is_estimate


def test_only_what_was_recorded_since_is_counted_but_all_of_its_window_fills_it() -> None:
    recorded = [allowed(ALICE, 10, 1), allowed(ALICE, 20, 2), allowed(ALICE, 30, 3)]
    _, total = replay(recorded, since=at(20), user_limit=2)
    assert (total.admitted, total.would_be_admitted, total.is_estimate) == (2, 1, False)
    assert warm_up_from(at(59), 60) == NOW


def test_a_report_long_after_its_window_is_counted_as_refused() -> None:
    long_after = 120 + CLOSING_SECONDS
    recorded = [
        allowed(ALICE, 1, 1),
        allowed(BOB, long_after),
        refused(4, 2, 3, recorded=long_after),
    ]
    assert replay(recorded)[1].is_estimate is False
    one = replay(recorded, user_limit=9)[0][ALICE]
    assert (one.refused, one.would_be_admitted, one.at_most) == (4, 1, 5)


def test_a_report_of_a_window_that_ended_before_since_is_refused_as_it_was() -> None:
    recorded = [refused(4, 50, 59, recorded=62), allowed(BOB, 63)]
    total = replay(recorded, since=at(61))[1]
    assert (total.admitted, total.would_be_admitted, total.is_estimate) == (1, 1, False)
    assert (total.refused, total.would_be_refused) == (4, 4)
    one = replay(recorded, since=at(61), user_limit=9)[0][ALICE]
    assert (one.would_be_admitted, one.at_least, one.at_most) == (0, 0, 4)


def test_a_report_over_many_seconds_may_be_in_each_of_the_windows_that_began_meanwhile() -> None:
    recorded = [refused(12, 1, 35, recorded=36), allowed(BOB, 37)]
    for since, at_most in ((None, 12), (at(30), 12)):
        one = replay(recorded, since=since, user_limit=9, window_seconds=10)[0][ALICE]
        assert (one.refused, one.at_least, one.at_most) == (12, 0, at_most)


@pytest.mark.parametrize("limit", [None, 9])
def test_limits_of_kinds_are_none_of_its_business(limit: int | None) -> None:
    what_if = WhatIf(OtherLimits(), DEFAULTS, None)
    what_if.take(Recorded(1, NOW, None, LimitChanged(scope=Scope.KIND, limit=limit)))
    assert what_if.finish() == Outcome()


GOLD = PlanName("gold")


def test_users_are_decided_by_the_plan_that_they_were_on_then() -> None:
    plan = ChangeLimit(scope=Scope.PLAN, plan=GOLD, limit=2)
    on_plan = ChangeLimit(scope=Scope.USER, user_id=ALICE, plan=GOLD)
    off_plan = ChangeLimit(scope=Scope.USER, user_id=ALICE, plan=None)
    story = given(policy=SMALL).when(plan, on_plan).so
    story = story.when(*[submit(payload=n) for n in range(3)], submit(BOB)).so
    story = story.after(60).when(off_plan, *[submit(payload=9 + n) for n in range(3)]).so
    same, _ = replay(story.recorded)
    assert {user: one.would_be_admitted for user, one in same.items()} == {ALICE: 5, BOB: 1}
    other, total = replay(story.recorded, plan_limits={GOLD: 1})
    assert {user: one.would_be_admitted for user, one in other.items()} == {ALICE: 4, BOB: 1}
    assert not total.is_estimate


def test_what_a_further_window_refused_stays_refused() -> None:
    limits = ChangeLimit(scope=Scope.USER, user_id=ALICE, windows=(Rate(1, 1),))
    story = given().when(limits, submit(payload=1), submit(payload=2)).so
    _, same = replay(story.recorded)
    assert (same.admitted, same.refused, same.would_be_admitted) == (1, 1, 1)
    assert not same.is_estimate
    _, other = replay(story.recorded, user_limit=0)
    assert (other.would_be_admitted, other.at_least, other.at_most) == (0, 0, 1)
