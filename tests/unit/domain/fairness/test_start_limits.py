"""Throttles, caps and pauses: of users, kinds, users' kinds, resources and all."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.decisions.write_model import WriteModel
from domain.language.commands import CancelJob, ChangeLimit, Command, UpdateLine
from domain.language.errors import TooManyQueues
from domain.language.events import JobStarted, LineUpdated, Scope
from domain.language.identifiers import JobId, Kind, PlanName, ResourceName, UserId
from domain.language.limits import Rate
from domain.language.moments import to_micros
from domain.limits.limits import Limits, Subject
from tests.support.live_line import (
    OPEN,
    LiveLine,
    limit_kind,
    limit_resource,
    limit_user,
    limit_user_kind,
    starts,
)
from tests.support.stories import ALICE, BOB, ECHO, SLEEP, complete, submit

GOLD = PlanName("gold")
SHOP, OTHER_SHOP = ResourceName("shop:acme"), ResourceName("shop:other")
TWO_PER_SECOND = Rate(2, 1)


def limit_all(**limits: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.GLOBAL, **limits)


def limit_plan(**limits: Any) -> ChangeLimit:
    return ChangeLimit(scope=Scope.PLAN, plan=GOLD, **limits)


def waiting(user_id: UserId = ALICE, jobs: int = 6, kind: Kind = ECHO, **details: Any) -> LiveLine:
    """Return a line in which jobs of a user wait."""
    line = LiveLine()
    line.decide(*[submit(user_id, kind, payload=number, **details) for number in range(jobs)])
    return line


# Throttles

SUBJECTS = [
    limit_user(ALICE, throttle=TWO_PER_SECOND),
    limit_kind(ECHO, throttle=TWO_PER_SECOND),
    limit_user_kind(ALICE, ECHO, throttle=TWO_PER_SECOND),
    limit_resource("shop:acme", throttle=TWO_PER_SECOND),
    limit_resource("shop:*", throttle=TWO_PER_SECOND),
]


@pytest.mark.parametrize("limit", SUBJECTS, ids=lambda one: one.scope.value)
def test_a_throttle_lets_so_many_jobs_start_in_each_window(limit: ChangeLimit) -> None:
    line = waiting(resources=(SHOP,))
    line.decide(limit)
    for _ in range(3):
        assert line.claim(5) == ["alice"] * 2
        assert line.claim(5) == []
        line.wait(0.5)
        assert line.claim(5) == []
        line.wait(0.5)
    assert line.claim(5) == []


@pytest.mark.parametrize("limit", SUBJECTS, ids=lambda one: one.scope.value)
def test_an_empty_claim_says_when_a_throttle_lets_more_jobs_start(limit: ChangeLimit) -> None:
    line = waiting(resources=(SHOP,))
    line.decide(limit)
    line.wait(0.25)
    line.claim(5)
    assert line.claimed(5).resumes_in_seconds == 0.75
    assert line.claimed(5).resumes_in_seconds == 0.75


def test_nobody_waits_behind_a_throttled_user() -> None:
    line = waiting()
    line.decide(
        limit_user(ALICE, throttle=Rate(1, 60)), *[submit(BOB, payload=n) for n in range(4)]
    )
    assert line.claim(9) == ["alice", "bob", "bob", "bob", "bob"]


def test_other_kinds_of_a_user_go_on_when_one_is_throttled() -> None:
    line = waiting()
    line.decide(limit_user_kind(ALICE, ECHO, throttle=Rate(1, 60)), submit(ALICE, SLEEP))
    line.claim(9)
    assert Counter(one.kind for one in starts(line.recorded)) == {ECHO: 1, SLEEP: 1}


def test_jobs_of_other_resources_go_on_when_one_is_throttled() -> None:
    line = waiting(resources=(SHOP,))
    line.decide(
        limit_resource("shop:*", throttle=Rate(1, 60)),
        submit(ALICE, resources=(OTHER_SHOP,), payload=7),
        submit(ALICE, payload=8),
    )
    line.claim(9)
    assert Counter(one.resources for one in starts(line.recorded)) == {
        (SHOP,): 1,
        (OTHER_SHOP,): 1,
        (): 1,
    }


def test_a_throttled_user_comes_back_in_turn_with_an_event() -> None:
    line = waiting()
    line.decide(limit_user(ALICE, throttle=Rate(1, 60)))
    line.claim(9)
    line.decide(*[submit(BOB, payload=number) for number in range(3)])
    line.claim(1)
    line.wait(60)
    assert line.claim(2) == ["alice", "bob"]
    [back] = [one.event for one in line.recorded if isinstance(one.event, LineUpdated)]
    assert back.users == (ALICE,)


def test_the_timer_brings_back_a_user_whom_no_claim_asks_for() -> None:
    line = waiting()
    line.decide(limit_user(ALICE, throttle=Rate(1, 60)))
    line.claim(9)
    line.decide(UpdateLine(users=[ALICE]))
    assert line.model.line.users[ALICE].turn is None
    line.wait(60)
    line.decide(UpdateLine(users=[ALICE, BOB]))
    assert line.model.line.users[ALICE].turn is not None
    seen = len(line.recorded)
    line.decide(UpdateLine(users=[ALICE, BOB]))
    assert len(line.recorded) == seen


def test_a_throttle_counts_from_the_event_that_set_it() -> None:
    line = waiting(jobs=9)
    assert line.claim(3) == ["alice"] * 3
    line.decide(limit_user(ALICE, throttle=Rate(2, 60)))
    assert line.claim(5) == ["alice"] * 2
    line.decide(limit_user(ALICE, running=100))  # the throttle stays, and its count
    assert line.claim(5) == []
    line.decide(limit_user(ALICE, throttle=Rate(3, 60)))
    assert line.claim(5) == ["alice"] * 3


# Caps and pauses


def test_a_resource_of_which_one_may_run_at_a_time_runs_one_at_a_time() -> None:
    line = waiting(resources=(SHOP,), jobs=3)
    line.decide(limit_resource("shop:acme", running=1), submit(BOB, resources=(SHOP,)))
    served = []
    for _ in range(4):
        served += line.claim(5)
        assert line.claim(5) == []
        running = [one for one in line.recorded if isinstance(one.event, JobStarted)]
        line.decide(complete(1, JobId(running[-1].job_id or 0)))
    assert served == ["alice", "bob", "alice", "alice"]


@pytest.mark.parametrize(
    ("pause", "resume"),
    [
        (limit_user(ALICE, paused=True), limit_user(ALICE, paused=False)),
        (limit_kind(ECHO, paused=True), limit_kind(ECHO, paused=None)),
        (limit_user_kind(ALICE, ECHO, paused=True), limit_user_kind(ALICE, ECHO, paused=False)),
        (limit_resource("shop:acme", paused=True), limit_resource("shop:acme", paused=None)),
        (limit_all(paused=True), limit_all(paused=False)),
    ],
)
def test_nothing_starts_while_it_is_paused_and_submissions_are_taken(
    pause: ChangeLimit, resume: ChangeLimit
) -> None:
    line = waiting(jobs=1, resources=(SHOP,))
    line.decide(pause)
    assert line.claim(5) == []
    line.decide(submit(payload=9, resources=(SHOP,)))
    assert line.claim(5) == []
    assert line.claimed(5).resumes_in_seconds is None
    line.decide(resume)
    assert line.claim(5) == ["alice", "alice"]


# Plans


def test_a_changed_plan_changes_the_next_claim() -> None:
    line = waiting()
    line.decide(limit_plan(running=1), limit_user(ALICE, plan=GOLD))
    assert line.claim(5) == ["alice"]
    line.decide(limit_plan(running=3))
    assert line.claim(5) == ["alice"] * 2
    line.decide(limit_plan(paused=True))
    assert line.claim(5) == []
    line.decide(limit_plan(paused=None, running=None))
    assert line.claim(9) == ["alice"] * 3


def test_a_user_who_gets_on_another_plan_is_under_its_limits_at_once() -> None:
    line = waiting()
    line.decide(limit_plan(throttle=Rate(1, 60)))
    line.decide(limit_user(ALICE, plan=GOLD))
    assert line.claim(5) == ["alice"]
    line.decide(limit_user(ALICE, plan=None))
    assert line.claim(5) == ["alice"] * 5


# Bounds


def test_a_user_s_sets_of_resources_are_bounded() -> None:
    line = LiveLine()
    names = [ResourceName(f"account:{number:04}") for number in range(1001)]
    outcomes = line.decide(*[submit(ALICE, resources=(name,)) for name in names])
    assert isinstance(outcomes[-1], TooManyQueues)
    assert not any(isinstance(one, Exception) for one in outcomes[:-1])
    assert line.claim(1000) == ["alice"] * 1000


def test_queues_of_which_nothing_waits_any_more_do_not_count_against_a_kind() -> None:
    """Their number in memory depends on when their rows were saved, which decides nothing."""
    line = LiveLine(policy=replace(OPEN, queues_waiting_max=2))
    first, second, third = (ResourceName(f"account:{number}") for number in range(3))
    line.decide(submit(ALICE, resources=(first,)), submit(BOB, resources=(second,)))
    [refused] = line.decide(submit(BOB, resources=(third,)))
    assert isinstance(refused, TooManyQueues)
    assert line.claim(1) == ["alice"]
    [accepted] = line.decide(submit(BOB, resources=(third,)))
    assert not isinstance(accepted, Exception)


# Any sequence

USERS = [ALICE, BOB, UserId("carol")]
KINDS = [ECHO, SLEEP]
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "running": st.sampled_from([None, 0, 1, 2]),
        "throttle": st.sampled_from([None, Rate(1, 1), Rate(2, 3), Rate(0, 1)]),
        "paused": st.sampled_from([None, True, False]),
    },
)
WEIGHTED = st.builds(
    lambda limits, weight: limits | weight,
    LIMITS,
    st.fixed_dictionaries({}, optional={"weight": st.sampled_from([None, 1, 50, 100, 1000])}),
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        lambda user_id, kind, resources, number: submit(
            user_id, kind, payload=number, resources=tuple(sorted(resources)), deduplicate=False
        ),
        st.sampled_from(USERS),
        st.sampled_from(KINDS),
        st.sets(st.sampled_from([SHOP, OTHER_SHOP]), max_size=2),
        st.integers(0, 99),
    ),
    st.builds(
        lambda user_id, limits: limit_user(user_id, **limits), st.sampled_from(USERS), WEIGHTED
    ),
    st.builds(
        lambda user_id, plan: limit_user(user_id, plan=plan),
        st.sampled_from(USERS),
        st.sampled_from([None, GOLD]),
    ),
    st.builds(lambda limits: limit_plan(**limits), WEIGHTED),
    st.builds(lambda kind, limits: limit_kind(kind, **limits), st.sampled_from(KINDS), LIMITS),
    st.builds(
        lambda user_id, kind, limits: limit_user_kind(user_id, kind, **limits),
        st.sampled_from(USERS),
        st.sampled_from(KINDS),
        LIMITS,
    ),
    st.builds(
        lambda name, limits: limit_resource(name, **limits),
        st.sampled_from(["shop:acme", "shop:*"]),
        LIMITS,
    ),
    st.builds(lambda paused: limit_all(paused=paused), st.booleans()),
    st.builds(lambda number: complete(1, JobId(number)), st.integers(1, 60)),
    st.builds(lambda number: CancelJob(job_id=JobId(number)), st.integers(1, 60)),
    st.just(UpdateLine(users=USERS)),
)
MOVES = st.lists(
    st.one_of(COMMANDS, st.integers(1, 5), st.sampled_from([0.2, 0.5, 1.0, 3.0])), max_size=40
)


def _played(moves: list[Any]) -> LiveLine:
    line = LiveLine()
    for move in moves:
        match move:
            case int():
                line.claim(move)
            case float():
                line.wait(move)
            case _:
                line.decide(move)
    return line


@for_all(moves=MOVES)
def test_any_sequence_respects_all_limits_and_folds_to_the_same_state(moves: list[Any]) -> None:
    line = _played(moves)
    _assert_within_limits(line)
    live, folded = line.model.line, line.rebuilt().line
    assert (live.users, live.held_kinds, live.starts) == (
        folded.users,
        folded.held_kinds,
        folded.starts,
    )
    assert (live.lanes, live.kinds, live.queues, live.resources, live.virtual_time) == (
        folded.lanes,
        folded.kinds,
        folded.queues,
        folded.resources,
        folded.virtual_time,
    )


def _assert_within_limits(line: LiveLine) -> None:
    """Check each start against a fold of the events before it, and count what throttles allow."""
    before = WriteModel()
    counts: Counter[tuple[Subject, int | None, int]] = Counter()  # by subject, throttle and window
    for one in line.recorded:
        if isinstance(one.event, JobStarted):
            assert not before.limits.everyone.paused
            for subject, limits, running in _limits_of(before, one.event):
                assert not limits.paused
                assert limits.running is None or running < limits.running
                if (throttle := limits.throttle) is not None:
                    window = to_micros(one.recorded_at) // (throttle.seconds * 1_000_000)
                    counts[subject, limits.throttle_since, window] += 1
                    assert counts[subject, limits.throttle_since, window] <= throttle.limit
        before.evolve(one)


def _limits_of(before: WriteModel, start: JobStarted) -> list[tuple[Subject, Limits, int]]:
    limits, line, user_id, kind = before.limits, before.line, start.user_id, start.kind
    of_kind = line.load_of(user_id, kind).running
    return [
        (Subject(user_id), limits.of_user(user_id), line.users[user_id].running),
        (Subject(user_id, kind), limits.of_user_kind(user_id, kind), of_kind),
        (Subject(kind=kind), limits.of_kind(kind), line.kinds[kind].running),
        *(
            (Subject(resource=one), limits.of_resource(one), line.resources[one].running)
            for one in start.resources
        ),
    ]


@for_all(moves=MOVES)
def test_when_all_limits_are_lifted_every_waiting_job_starts(moves: list[Any]) -> None:
    line = _played(moves)
    nothing: Any = {"running": None, "throttle": None, "paused": None}
    line.decide(limit_all(paused=None), limit_plan(**nothing))
    line.decide(*[limit_user(user_id, **nothing) for user_id in USERS])
    line.decide(*[limit_kind(kind, **nothing) for kind in KINDS])
    line.decide(*[limit_user_kind(one, kind, **nothing) for one in USERS for kind in KINDS])
    line.decide(*[limit_resource(name, **nothing) for name in ("shop:acme", "shop:*")])
    left = sum(user.waiting for user in line.model.line.users.values())
    assert len(line.claim(1000)) == left
