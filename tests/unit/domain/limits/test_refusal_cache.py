"""Refusals from the cache: counted, reported in turns, and none of them lost."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.language.commands import ReportRefusals
from domain.language.errors import InvalidInput, RateLimited
from domain.language.events import RateLimitDecided, Scope
from domain.language.identifiers import UserId
from domain.limits import refusal_cache as cache_module
from domain.limits.refusal_cache import RefusalCache
from tests.support.given import at
from tests.support.keys import caller
from tests.support.stories import (
    ALICE,
    BOB,
    CAROL,
    refusals,
)

USERS = [UserId(name) for name in "abcde"]
MANY = 1_000_000


def refused(user_id: UserId, seconds: float = 0, scope: Scope = Scope.USER) -> RateLimited:
    """Return a decision of the log, so many seconds after NOW, in that minute."""
    decision = RateLimitDecided(
        user_id=user_id,
        scope=scope,
        allowed=False,
        used=2,
        limit=2,
        window_start=at(seconds // 60 * 60),
        window_seconds=60,
    )
    return RateLimited(decision, at(seconds))


def refusing(users: Sequence[UserId], seconds: float = 0) -> RefusalCache:
    cache = RefusalCache()
    for user in users:
        cache.add(refused(user, seconds), tick=seconds, received=seconds)
    return cache


def reported(reports: Sequence[ReportRefusals]) -> list[tuple[UserId, int]]:
    return [(one.user_id, one.count) for one in reports]


def test_what_the_log_refused_is_refused_until_the_windows_end() -> None:
    cache = refusing([ALICE], seconds=20)
    refusal = cache.refuse(ALICE, tick=59.9)
    assert refusal is not None
    assert (refusal.decided_at, refusal.resets_at, refusal.used) == (at(59.9), at(60), 2)
    assert cache.refuse(BOB, tick=59.9) is None
    assert cache.refuse(ALICE, tick=60) is None


def test_when_all_together_are_over_the_limit_each_is_counted_for_himself() -> None:
    cache = RefusalCache()
    cache.add(refused(ALICE, scope=Scope.GLOBAL), tick=0, received=0)
    for user in (BOB, CAROL, BOB):
        assert cache.refuse(user, tick=1) is not None
    assert reported(cache.take_reports(MANY)) == [(BOB, 2), (CAROL, 1)]


def test_a_report_says_which_window_how_many_and_from_when_to_when() -> None:
    cache = refusing([ALICE], seconds=60)
    for tick in (61, 62.5, 64):
        cache.refuse(ALICE, tick)
    assert cache.take_reports(MANY) == [
        refusals(3, used=2, window_start=at(60), first_at=at(61), last_at=at(64))
    ]
    assert cache.take_reports(MANY) == []


def test_few_users_are_all_reported_in_every_round() -> None:
    cache = refusing(USERS)
    for tick in (1, 2, 3):
        for user in USERS:
            cache.refuse(user, tick)
        assert reported(cache.take_reports(5)) == [(user, 1) for user in USERS]


def test_many_users_take_turns_and_who_has_waited_longest_is_first() -> None:
    cache = refusing(USERS)
    rounds: list[str] = []
    for tick in range(1, 6):
        for user in reversed(USERS) if tick % 2 else USERS:  # whoever calls first each time
            cache.refuse(user, tick)
        rounds.append("".join(one.user_id for one in cache.take_reports(2)))
    assert rounds == ["ed", "cb", "ad", "ec", "ba"]


def test_who_waits_for_a_turn_is_counted_on() -> None:
    cache = refusing([ALICE, BOB])
    for tick, turn in ((1, ALICE), (4, BOB), (9, ALICE)):
        cache.refuse(ALICE, tick)
        cache.refuse(BOB, tick)
        [report] = cache.take_reports(1)
        assert report.user_id == turn
    assert (report.count, report.first_at, report.last_at) == (2, at(4), at(9))


def test_a_window_that_is_over_is_still_reported_and_before_the_next() -> None:
    cache = refusing(USERS)
    for user in USERS:
        cache.refuse(user, tick=59)
    for user in USERS:
        cache.add(refused(user, 61), tick=61, received=61)
        cache.refuse(user, tick=62)
    assert reported(cache.take_reports(3)) == [(user, 1) for user in USERS[:3]]
    left = cache.take_reports(MANY)
    assert [one.window_start for one in left] == [at(0)] * 2 + [at(60)] * 5


def test_a_change_of_limits_empties_the_cache_and_forgets_no_count() -> None:
    cache = refusing([ALICE])
    cache.refuse(ALICE, tick=1)
    cache.clear()
    assert cache.refuse(ALICE, tick=2) is None
    assert reported(cache.take_reports(MANY)) == [(ALICE, 1)]


def test_what_the_log_has_not_got_counts_on_and_is_first_again() -> None:
    cache = refusing(USERS)
    for user in USERS:
        cache.refuse(user, tick=1)
    taken = cache.take_reports(2)
    cache.refuse(USERS[1], tick=5)
    cache.put_back(taken)
    again = cache.take_reports(2)
    assert reported(again) == [("a", 1), ("b", 2)]
    assert (again[1].first_at, again[1].last_at) == (at(1), at(5))
    assert [one.user_id for one in cache.take_reports(MANY)] == ["c", "d", "e"]


def test_a_clock_that_is_known_better_later_turns_no_report_around() -> None:
    cache = refusing([ALICE])
    cache.refuse(ALICE, tick=3)
    # By the log it was earlier than we thought.
    cache.add(refused(ALICE, seconds=1), tick=3, received=3)
    cache.refuse(ALICE, tick=3.5)
    [report] = cache.take_reports(MANY)
    assert (report.count, report.first_at, report.last_at) == (2, at(3), at(3))


def test_with_too_many_counts_waiting_the_log_decides_about_who_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_module, "COUNTS_MAX", 2)
    cache = refusing(USERS)
    assert [cache.refuse(user, 1) is not None for user in USERS] == [True, True] + [False] * 3
    assert cache.refuse(USERS[0], 2) is not None
    assert reported(cache.take_reports(1)) == [("a", 2)]
    assert cache.refuse(USERS[4], 3) is not None


@for_all(
    steps=st.lists(
        st.sampled_from(USERS) | st.tuples(st.integers(0, 3), st.booleans()), max_size=60
    )
)
def test_reports_and_what_is_left_add_up_to_what_was_refused(
    steps: list[UserId | tuple[int, bool]],
) -> None:
    cache = refusing(USERS)
    expected: Counter[UserId] = Counter()
    logged: Counter[UserId] = Counter()
    for tick, step in enumerate(steps):
        match step:
            case (reports_max, is_recorded):
                reports = cache.take_reports(reports_max)
                assert len(reports) <= reports_max
                if is_recorded:
                    logged.update(dict(reported(reports)))
                else:
                    cache.put_back(reports)
            case user:
                assert cache.refuse(user, min(tick, 59)) is not None
                expected[user] += 1
    for report in cache.take_reports(MANY):
        logged[report.user_id] += report.count
    assert logged == expected


def test_the_time_told_is_never_ahead_of_the_logs_own() -> None:
    """The answer took 3 s, and nobody knows when in them the decision was made."""
    cache = RefusalCache()
    cache.add(refused(ALICE), tick=0, received=3)
    at_once, later_on = cache.refuse(ALICE, 3), cache.refuse(ALICE, 5)
    assert at_once is not None
    assert later_on is not None
    assert later_on.decided_at - at_once.decided_at == timedelta(seconds=2)
    assert at_once.decided_at == refused(ALICE).decided_at


@pytest.mark.parametrize("user", ["", "\x1b[2J", "x" * 256])
def test_no_refusal_of_what_is_no_user_id_is_counted(user: str) -> None:
    cache = RefusalCache()
    cache.add(refused(ALICE, scope=Scope.GLOBAL), tick=0, received=0)
    with pytest.raises(InvalidInput):
        cache.refuse(UserId(user), tick=1)
    assert cache.take_reports(MANY) == []


def test_refusals_of_two_callers_are_counted_apart() -> None:
    cache = refusing([ALICE])
    for name in ("ci", "ci", "cd"):
        assert cache.refuse(ALICE, 1.0, caller(name)) is not None
    reports = cache.take_reports(10)
    assert [(report.key_name, report.count) for report in reports] == [("ci", 2), ("cd", 1)]
    cache.put_back(reports)
    assert cache.take_reports(10) == reports
