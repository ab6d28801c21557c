"""Claims are answered from a part of the stored line, and give what the whole of it would."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

import pytest
from sqlalchemy import event

import domain.decisions.batch
from domain.decisions.answers import Claimed, LimitsSet, Submitted
from domain.decisions.batch import Batch, Outcome
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import KnownLine
from domain.jobs.job import Job, State
from domain.language.commands import (
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    EnforceDeadlines,
    FailJob,
    ReturnJob,
    SubmitJob,
)
from domain.language.events import Scope
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from domain.language.moments import later
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.feeds.work_signal import WorkSignal
from entrypoints.service.claiming import Claiming
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.worker_polls import WorkerPolls
from projections.inline import front
from tests.support.clock import ManualClock
from tests.support.core import do, log_of, outcomes, put, put_as_one_batch, service
from tests.support.plans import plan_of
from tests.support.referee import Referee
from tests.support.stories import ALICE, BOB, ECHO, ERROR, SLEEP, claim, submit

USERS: Final = [UserId(f"user-{number}") for number in range(9)]
KINDS: Final = [Kind(name) for name in ("echo", "sleep", "thumb")]
WORKER, OF_ANY_KIND = WorkerId("w"), WorkerId("any")
BATCHES: Final = 30


class Story:
    """A random history. What is wished is about jobs that there are."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.number = 0

    def batch(self, model: WriteModel, clock: ManualClock) -> list[Command]:
        chance = self.chance
        jobs = list(model.jobs.rows.values())
        commands: list[Command] = []
        if chance.random() < 0.3:
            who = chance.sample(USERS, chance.randint(1, 3))
            commands += [self._submit(chance.choice(who), clock) for _ in range(12)]
        commands += [self._any(jobs, clock) for _ in range(chance.randint(0, 8))]
        commands += [self._claim() for _ in range(chance.choice([1, 1, 2, 4]))]
        chance.shuffle(commands)
        return commands

    def _any(self, jobs: Sequence[Job], clock: ManualClock) -> Command:
        chance = self.chance
        running = [job for job in jobs if job.state is State.RUNNING]
        waiting = [job for job in jobs if job.state is State.QUEUED]
        what = chance.random()
        if what < 0.3 and running:
            return self._end(chance.choice(running))
        if what < 0.5 and waiting:
            return CancelJob(job_id=chance.choice(waiting).id)
        if what < 0.55:
            return EnforceDeadlines(jobs=[job.id for job in chance.sample(jobs, len(jobs) // 3)])
        if what < 0.65:
            user_id = chance.choice(USERS)
            running_max = chance.choice([None, 0, 1, 3])
            return ChangeLimit(scope=Scope.USER, user_id=user_id, running=running_max)
        if what < 0.75:
            running_max = chance.choice([None, None, 0, 2, 5])
            return ChangeLimit(scope=Scope.KIND, kind=chance.choice(KINDS), running=running_max)
        return self._submit(chance.choice(USERS), clock)

    def _end(self, job: Job) -> Command:
        match self.chance.randrange(3):
            case 0:
                return FailJob(job_id=job.id, attempt=job.attempt, error=ERROR)
            case 1:
                return ReturnJob(job_id=job.id, attempt=job.attempt)
            case _:
                return CompleteJob(job_id=job.id, attempt=job.attempt)

    def _submit(self, user_id: UserId, clock: ManualClock) -> SubmitJob:
        self.number += 1
        expires_in = self.chance.choice([None, None, 3, 10])
        return submit(
            user_id,
            self.chance.choice(KINDS),
            self.number,
            priority=self.chance.choice([0, 0, 1]),
            expires_at=None if expires_in is None else later(clock.now(), expires_in),
        )

    def _claim(self) -> ClaimJobs:
        kinds = self.chance.choice([None, None, KINDS[:1], KINDS[1:], KINDS])
        return ClaimJobs(
            worker=OF_ANY_KIND if kinds is None else WORKER,
            max_jobs=self.chance.choice([1, 2, 3, 8, 20]),
            kinds=None if kinds is None else tuple(kinds),
        )


@pytest.mark.parametrize("seed", range(8))
def test_each_claim_gives_what_the_whole_line_would_give(database_url: str, seed: int) -> None:
    story, clock = Story(seed), ManualClock()
    with ExitStack() as stack:
        services = [stack.enter_context(service(database_url, clock=clock)) for _ in range(2)]
        fairlog = services[0]
        served = 0
        for number in range(BATCHES):
            clock.advance(story.chance.choice([0.0, 1.0, 4.0]))
            model = whole_line(fairlog)
            commands = story.batch(model, clock)
            found = outcomes(put_as_one_batch(services[story.chance.randrange(2)], *commands))
            whole = Batch(model, fairlog.policy, clock.now())
            expected = whole.decide_all(commands, _unexpected)
            assert claimed(found) == claimed(expected), f"batch {number}: {commands}"
            served += sum(len(jobs) for jobs in claimed(found))
        assert served > BATCHES / 2
        Referee(fairlog.policy, [OF_ANY_KIND]).see_all(log_of(fairlog))


def whole_line(fairlog: Fairlog) -> WriteModel:
    """All that the log gives, in memory."""
    model = WriteModel(KnownLine())
    for recorded in log_of(fairlog):
        model.evolve(recorded)
    return model


def claimed(found: Sequence[Outcome]) -> list[list[JobId]]:
    return [[job.id for job in one.jobs] for one in found if isinstance(one, Claimed)]


def _unexpected(command: Command, error: Exception) -> None:
    raise AssertionError(command) from error


def test_jobs_that_expired_in_front_hide_nobody_behind_them(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        expiring = [submit(ALICE, payload=n, expires_at=later(clock.now(), 1)) for n in range(30)]
        outcomes(put(fairlog, *expiring))
        last = do(fairlog, submit(ALICE, payload="last"), Submitted).job
        clock.advance(2)
        assert [job.id for job in do(fairlog, claim(1), Claimed).jobs] == [last.id]


def test_past_very_many_expired_jobs_a_claim_goes_in_steps(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain.decisions.batch, "EXPIRED_PER_BATCH_MAX", 5)
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        expiring = [submit(ALICE, payload=n, expires_at=later(clock.now(), 1)) for n in range(30)]
        outcomes(put(fairlog, *expiring))
        last = do(fairlog, submit(ALICE, payload="last"), Submitted).job
        clock.advance(2)
        first = do(fairlog, claim(1), Claimed)
        assert (first.jobs, first.is_cut_short) == ([], True)

        async def ask(command: ClaimJobs) -> Claimed:
            return do(fairlog, command, Claimed)

        async def position() -> int:
            return 0

        async def ask_on() -> Claimed:
            claiming = Claiming(ask, WorkSignal(LogWatcher(position)), WorkerPolls())
            return await claiming.claim(claim(1), 0)

        assert [job.id for job in asyncio.run(ask_on()).jobs] == [last.id]


def test_what_a_cap_keeps_from_one_user_goes_to_the_others(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, ChangeLimit(scope=Scope.USER, user_id=ALICE, running=1), LimitsSet)
        who = [ALICE, BOB] * 10
        outcomes(put(fairlog, *[submit(one, payload=n) for n, one in enumerate(who)]))
        served = do(fairlog, claim(10), Claimed).jobs
        assert [job.user_id for job in served] == [ALICE, *[BOB] * 9]


def test_a_kind_that_comes_to_its_cap_midway_holds_up_no_other(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, ChangeLimit(scope=Scope.KIND, kind=SLEEP, running=1), LimitsSet)
        early = [submit(UserId(f"early-{n}"), SLEEP, n) for n in range(12)]
        late = [submit(UserId(f"late-{n}"), ECHO, n) for n in range(12)]
        outcomes(put(fairlog, *early, *late))
        served = do(fairlog, claim(6, SLEEP, ECHO), Claimed).jobs
        assert [job.kind for job in served] == [SLEEP, *[ECHO] * 5]


def test_a_claim_of_any_kind_reads_no_kinds_of_which_nothing_waits(database_url: str) -> None:
    """Anybody may submit of ever new kinds, and each is known for ever."""
    idle = [Kind(f"idle-{number}") for number in range(500)]
    sent: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "ORDER BY waits_as" in statement:  # with or without lanes, in one statement
            sent.append((statement, parameters))

    with service(database_url, user_limit=10_000, global_limit=10_000) as fairlog:
        for start in range(0, len(idle), 100):
            outcomes(put(fairlog, *(submit(ALICE, kind) for kind in idle[start : start + 100])))
            do(fairlog, claim(100), Claimed)
        waiting = do(fairlog, submit(BOB, ECHO), Submitted).job
    with service(database_url, user_limit=10_000, global_limit=10_000) as fairlog:
        event.listen(fairlog.database.writing_engine, "before_cursor_execute", note)
        assert [job.id for job in do(fairlog, claim(1), Claimed).jobs] == [waiting.id]
        with fairlog.database.read() as connection:
            plans = plan_of(connection, *sent[0])
    if "detail" in plans[0]:
        details = [plan["detail"] for plan in plans]
        assert any("line_kinds_v3_waiting (generation=? AND waits_as>?)" in one for one in details)
    else:
        [plan] = [plan for plan in plans if plan["table"] == "line_kinds_v3"]
        assert plan["key"] == "line_kinds_v3_waiting"
        assert "filesort" not in plan["Extra"]


def test_a_claim_of_any_kind_serves_kinds_that_are_stored_beside_those_in_memory(
    database_url: str,
) -> None:
    """A server that has just started knows only the kinds of the commands that it was given."""
    with service(database_url) as fairlog:
        do(fairlog, submit(ALICE, SLEEP, "later"), Submitted)
        first = do(fairlog, submit(ALICE, ECHO, "first", priority=1), Submitted).job
    with service(database_url) as fairlog:
        found = outcomes(put_as_one_batch(fairlog, submit(BOB, SLEEP), claim(1)))
        assert claimed(found) == [[first.id]]


def test_a_claim_of_any_kind_finds_work_behind_many_kinds_that_cannot_run(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "KINDS_PER_READ_MAX", 4)
    with service(database_url) as fairlog:
        held_back, at_cap = UserId("held-back"), [Kind(f"a-{n}") for n in range(6)]
        do(fairlog, ChangeLimit(scope=Scope.USER, user_id=held_back, running=0), LimitsSet)
        for kind in at_cap:
            do(fairlog, ChangeLimit(scope=Scope.KIND, kind=kind, running=0), LimitsSet)
        outcomes(put(fairlog, *[submit(ALICE, kind) for kind in at_cap]))
        outcomes(put(fairlog, *[submit(held_back, Kind(f"b-{n}")) for n in range(9)]))
        last = do(fairlog, submit(BOB, Kind("z")), Submitted).job
        assert [job.id for job in do(fairlog, claim(1), Claimed).jobs] == [last.id]
        raised = ChangeLimit(scope=Scope.KIND, kind=at_cap[5], running=1)
        found = outcomes(put_as_one_batch(fairlog, claim(1), raised))
        assert [len(jobs) for jobs in claimed(found)] == [1]
