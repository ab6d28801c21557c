"""Recorded starts replayed under other throttles and weights."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result

from domain.audit.start_outcomes import StartOutcome, Waited
from domain.audit.start_replay import OtherStarts
from domain.decisions.answers import Claimed
from domain.language.commands import (
    ChangeLimit,
    ClaimJobs,
    CompleteJob,
)
from domain.language.events import Scope
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId, WorkerId
from domain.language.limits import Rate
from domain.language.moments import later
from domain.limits.limits import Subject
from entrypoints.cli.commands import cli
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.whatif_starts import what_if_starts
from tests.support.clock import ManualClock
from tests.support.core import execute_now, service
from tests.support.crowd import crowd
from tests.support.stories import ALICE, BOB, CAROL, RESULT, submit

WORKER = WorkerId("w")
ONE_IN_TWO_SECONDS = Rate(1, 2)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, user_limit=100, global_limit=2_000) as fairlog:
        yield fairlog


class Workers:
    """Worker slots that run jobs for some seconds of the clock, and claim again when one ends."""

    def __init__(self, fairlog: Fairlog, clock: ManualClock) -> None:
        self.fairlog = fairlog
        self.clock = clock
        self.slots = 1
        self.seconds: Mapping[UserId, int] = {}  # of a user's runs; 1 of those not named
        self.running: list[tuple[int, CompleteJob]] = []  # with the seconds that are left

    def work(self, seconds: int) -> None:
        """Let this time go by, second by second."""
        for _ in range(seconds):
            self.claim()
            self.clock.advance(1)
            self.running = [(left - 1, done) for left, done in self.running]
            for _, done in [one for one in self.running if not one[0]]:
                execute_now(self.fairlog, done)
            self.running = [one for one in self.running if one[0]]
        self.claim()

    def claim(self) -> None:
        free = self.slots - len(self.running)
        if not free:
            return
        answer = execute_now(self.fairlog, ClaimJobs(worker=WORKER, max_jobs=free))
        assert isinstance(answer, Claimed)
        for job in answer.jobs:
            done = CompleteJob(job_id=job.id, attempt=job.attempt, result=RESULT)
            self.running.append((self.seconds.get(job.user_id, 1), done))


@pytest.fixture
def workers(fairlog: Fairlog, clock: ManualClock) -> Workers:
    return Workers(fairlog, clock)


def add(fairlog: Fairlog, user_id: UserId, jobs: int, **details: Any) -> None:
    for number in range(jobs):
        execute_now(fairlog, submit(user_id, payload=number, **details))


def set_throttle(fairlog: Fairlog, throttle: Rate, **subject: Any) -> None:
    execute_now(fairlog, ChangeLimit(throttle=throttle, **subject))


def replay(
    fairlog: Fairlog,
    throttles: Mapping[Subject, Rate | None] | None = None,
    weights: Mapping[Subject, int | None] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Mapping[UserId, StartOutcome]:
    other = OtherStarts(throttles=throttles or {}, weights=weights or {})
    with fairlog.database.read() as connection:
        return what_if_starts(fairlog, connection, other, since, until).users


def seconds(waited: Waited) -> list[float]:
    return [one / 1_000_000 for one in waited.micros]


def test_under_the_recorded_limits_each_job_starts_when_it_did(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    crowd(fairlog, clock, 6_000)
    outcome = replay(fairlog, weights={Subject(UserId("nobody")): 200})
    assert sum(one.recorded.started for one in outcome.values()) > 800
    for one in outcome.values():
        assert one.recorded == one.replayed
        assert (one.later, one.sooner) == (0, 0)


def test_under_the_recorded_throttles_and_weights_each_job_starts_when_it_did(
    fairlog: Fairlog, workers: Workers, clock: ManualClock
) -> None:
    begin = clock.now()
    set_throttle(fairlog, Rate(1, 2), scope=Scope.USER, user_id=ALICE)
    set_throttle(fairlog, Rate(2, 3), scope=Scope.KIND, kind=Kind("mail"))
    set_throttle(fairlog, Rate(1, 5), scope=Scope.RESOURCE, resource=ResourceName("shop:*"))
    set_throttle(fairlog, Rate(1, 4), scope=Scope.USER_KIND, user_id=CAROL, kind=Kind("echo"))
    execute_now(fairlog, ChangeLimit(scope=Scope.USER, user_id=BOB, weight=300, running=2))
    workers.slots, workers.seconds = 4, {BOB: 3, CAROL: 2}
    for kind in ("echo", "mail"):
        for user in (ALICE, BOB, CAROL):
            add(fairlog, user, 6, kind=Kind(kind))
    add(fairlog, BOB, 4, kind=Kind("call"), resources=(ResourceName("shop:one"),))
    workers.work(9)
    execute_now(fairlog, ChangeLimit(scope=Scope.PLAN, plan=PlanName("slow"), throttle=Rate(1, 6)))
    execute_now(
        fairlog, ChangeLimit(scope=Scope.USER, user_id=ALICE, plan=PlanName("slow"), throttle=None)
    )
    workers.work(25)
    for since in (None, later(begin, 7)):
        outcome = replay(fairlog, since=since)
        assert outcome.keys() == {ALICE, BOB, CAROL}
        for one in outcome.values():
            assert one.recorded == one.replayed
            assert one.recorded.started > 4
            assert (one.later, one.sooner) == (0, 0)


def test_a_throttle_lets_jobs_wait_for_its_windows(fairlog: Fairlog, workers: Workers) -> None:
    add(fairlog, ALICE, 4)
    add(fairlog, BOB, 2)
    workers.slots = 2
    workers.work(8)
    add(fairlog, CAROL, 1)
    workers.work(1)
    outcome = replay(fairlog, {Subject(ALICE): ONE_IN_TWO_SECONDS})
    # Two slots: alice and bob, alice and bob, alice and alice.
    assert seconds(outcome[ALICE].recorded) == [0, 1, 2, 2]
    assert seconds(outcome[ALICE].replayed) == [0, 2, 4, 6]
    assert (outcome[ALICE].later, outcome[ALICE].sooner) == (3, 0)
    for user in (BOB, CAROL):
        assert outcome[user].recorded == outcome[user].replayed
        assert (outcome[user].later, outcome[user].sooner) == (0, 0)
    assert seconds(outcome[BOB].replayed) == [0, 1]


def test_jobs_that_would_not_have_started_in_the_span_count_as_waiting(
    fairlog: Fairlog, workers: Workers, clock: ManualClock
) -> None:
    add(fairlog, ALICE, 4)
    workers.slots = 4
    workers.work(3)
    outcome = replay(fairlog, {Subject(ALICE): ONE_IN_TWO_SECONDS}, until=clock.now())
    assert seconds(outcome[ALICE].recorded) == [0, 0, 0, 0]
    assert seconds(outcome[ALICE].replayed) == [0, 2, 3, 3]
    assert (outcome[ALICE].replayed.started, outcome[ALICE].replayed.waiting) == (2, 2)
    assert outcome[ALICE].later == 3


def test_without_its_throttle_a_user_has_the_slots_that_were_idle(
    fairlog: Fairlog, workers: Workers
) -> None:
    set_throttle(fairlog, ONE_IN_TWO_SECONDS, scope=Scope.USER, user_id=ALICE)
    add(fairlog, ALICE, 3)
    workers.work(6)
    outcome = replay(fairlog, {Subject(ALICE): None})
    assert seconds(outcome[ALICE].recorded) == [0, 2, 4]
    assert seconds(outcome[ALICE].replayed) == [0, 1, 2]
    assert (outcome[ALICE].later, outcome[ALICE].sooner) == (0, 2)


def test_a_weight_gives_a_user_more_turns(fairlog: Fairlog, workers: Workers) -> None:
    add(fairlog, ALICE, 6)
    add(fairlog, BOB, 6)
    workers.work(12)
    outcome = replay(fairlog, weights={Subject(BOB): 200})
    assert seconds(outcome[ALICE].recorded) == [0, 2, 4, 6, 8, 10]
    assert seconds(outcome[BOB].recorded) == [1, 3, 5, 7, 9, 11]
    # Passes in the order of their turns: b 0.5, a 1, b 1, b 1.5, a 2, b 2, b 2.5, a 3, b 3, a …
    assert seconds(outcome[ALICE].replayed) == [1, 4, 7, 9, 10, 11]
    assert seconds(outcome[BOB].replayed) == [0, 2, 3, 5, 6, 8]
    assert (outcome[ALICE].later, outcome[ALICE].sooner) == (6, 0)
    assert (outcome[BOB].later, outcome[BOB].sooner) == (0, 6)


def test_a_slot_is_free_when_the_job_of_the_replay_ends(fairlog: Fairlog, workers: Workers) -> None:
    workers.seconds = {ALICE: 10}
    add(fairlog, ALICE, 1)
    add(fairlog, BOB, 1)
    workers.work(11)
    outcome = replay(fairlog, weights={Subject(BOB): 200})
    assert [seconds(outcome[user].recorded) for user in (ALICE, BOB)] == [[0], [10]]
    assert [seconds(outcome[user].replayed) for user in (ALICE, BOB)] == [[1], [0]]


def test_kinds_resources_and_plans_have_throttles_too(
    fairlog: Fairlog, workers: Workers, clock: ManualClock
) -> None:
    gold = PlanName("gold")
    execute_now(fairlog, ChangeLimit(scope=Scope.PLAN, plan=gold, weight=100))
    execute_now(fairlog, ChangeLimit(scope=Scope.USER, user_id=ALICE, plan=gold))
    workers.slots = 3
    add(fairlog, ALICE, 3, kind=Kind("call"), resources=(ResourceName("shop:one"),))
    workers.work(7)
    for subject in (
        Subject(kind=Kind("call")),
        Subject(resource=ResourceName("shop:*")),
        Subject(plan=gold),
    ):
        outcome = replay(fairlog, {subject: ONE_IN_TWO_SECONDS}, until=clock.now())
        assert seconds(outcome[ALICE].recorded) == [0, 0, 0]
        assert seconds(outcome[ALICE].replayed) == [0, 2, 4]


def asked(fairlog: Fairlog, *arguments: str) -> Result:
    url = fairlog.database.url.render_as_string(hide_password=False)
    return CliRunner(env={"FAIRLOG_DATABASE_URL": url}).invoke(cli, ["whatif", *arguments])


def test_the_command_shows_waits_by_user(fairlog: Fairlog, workers: Workers) -> None:
    add(fairlog, ALICE, 4)
    add(fairlog, BOB, 2)
    workers.slots = 2
    workers.work(8)
    add(fairlog, CAROL, 1)
    workers.work(1)
    throttled = ["--throttle", "alice=1/2s"]
    table = asked(fairlog, *throttled).stdout.splitlines()
    assert [" ".join(line.split()) for line in table[1:3]] == [
        "alice 4 4 3 0 1.00 s 2.00 s 2.00 s 2.00 s 6.00 s 6.00 s",
        "bob 2 2 0 0 0.00 s 1.00 s 1.00 s 0.00 s 1.00 s 1.00 s",
    ]
    document = json.loads(asked(fairlog, *throttled, "--format", "json").stdout)
    assert document["users"][0] == {
        "user_id": "alice",
        "later": 3,
        "sooner": 0,
        "recorded": waits(4, 0, 1.0, 2.0, 2.0),
        "replayed": waits(4, 0, 2.0, 6.0, 6.0),
    }
    assert (document["total"]["later"], document["total"]["recorded"]["started"]) == (3, 7)


def waits(started: int, waiting: int, *figures: float) -> dict[str, float]:
    names = ("p50_seconds", "p95_seconds", "max_seconds")
    return {"started": started, "waiting": waiting, **dict(zip(names, figures, strict=True))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--throttle", "alice"], "'alice' is not USER= and a rate, like 5/1s"),
        (["--throttle", "alice=5"], "a rate, like 5/1s"),
        (["--throttle", "alice=5/90d"], "The window of throttle, in seconds,"),
        (["--resource-throttle", "a*b=5/1s"], "* stands at the end"),
        (["--weight", "alice=heavy"], "a weight, like 2 or 0.5"),
        (["--plan-weight", "gold=0"], "a number from 0.01 to 1,000"),
        (["--weight", "alice=2", "--user-limit", "5"], "ask for one of both at a time"),
    ],
)
def test_what_cannot_be_tried_is_refused(
    fairlog: Fairlog, arguments: Sequence[str], message: str
) -> None:
    result = asked(fairlog, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
