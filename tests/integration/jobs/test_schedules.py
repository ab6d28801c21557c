"""Schedules over two services, through rows, and against a rebuild."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from domain.decisions.answers import Claimed, JobUpdated, ScheduleDecided
from domain.language.commands import ClaimJobs, CompleteJob, DeleteSchedule, SetSchedule
from domain.language.events import JobSubmitted, ScheduleFired
from domain.language.identifiers import JobId, Kind, ScheduleName, UserId, WorkerId
from domain.language.schedules import Overlap, RunOutcome, Timing
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import ManualClock
from tests.support.core import do, log_of, service
from tests.support.inline_rows import rows_of

ALICE, ECHO = UserId("alice"), Kind("echo")


def set_schedule(fairlog: Fairlog, name: str, seconds: int = 60, **fields: Any) -> None:
    fixed: dict[str, Any] = {"user_id": ALICE, "kind": ECHO, "payload": '{"n":1}'}
    do(
        fairlog,
        SetSchedule(
            name=ScheduleName(name), timing=Timing(every_seconds=seconds), **(fixed | fields)
        ),
        ScheduleDecided,
    )


def look(*fairlogs: Fairlog) -> None:
    """Let the timers of all services look at once."""

    async def at_once() -> None:
        await asyncio.gather(*(one.enforce_deadlines() for one in fairlogs))

    asyncio.run(at_once())


def runs(fairlog: Fairlog) -> list[ScheduleFired]:
    return [one.event for one in log_of(fairlog) if isinstance(one.event, ScheduleFired)]


def jobs(fairlog: Fairlog) -> int:
    return sum(isinstance(one.event, JobSubmitted) for one in log_of(fairlog))


def assert_equals_rebuilt(fairlog: Fairlog) -> None:
    inline = rows_of(fairlog)
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline


def test_of_two_servers_that_look_at_once_each_time_is_run_once(database_url: str) -> None:
    clock = ManualClock()
    with (
        service(database_url, clock=clock) as one,
        service(database_url, clock=clock) as other,
    ):
        for number in range(30):
            set_schedule(one, f"s{number}", overlap=Overlap.ALLOW_ALL)
        for _ in range(4):
            clock.advance(60)
            look(one, other)
        found = Counter((run.name, run.due_at) for run in runs(one))
        assert len(found) == 120
        assert set(found.values()) == {1}
        assert jobs(one) == 120
        assert_equals_rebuilt(one)


def test_two_servers_that_start_after_an_hour_do_what_the_window_says(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as one:
        set_schedule(one, "short", overlap=Overlap.ALLOW_ALL, catch_up_seconds=300)
        set_schedule(one, "skip", catch_up_seconds=7200)
        set_schedule(one, "all", overlap=Overlap.ALLOW_ALL, catch_up_seconds=7200)
    clock.advance(3600)
    with (
        service(database_url, clock=clock) as one,
        service(database_url, clock=clock) as other,
    ):
        look(one, other)
        look(one, other)
        found = Counter((run.name, run.outcome) for run in runs(one))
        assert found == {
            ("short", RunOutcome.MISSED): 1,
            ("short", RunOutcome.SUBMITTED): 6,
            ("skip", RunOutcome.SUBMITTED): 1,
            ("skip", RunOutcome.OVERLAP): 59,
            ("all", RunOutcome.SUBMITTED): 60,
        }
        in_order = [run.due_at for run in runs(one) if run.name == "all"]
        assert in_order == sorted(set(in_order))
        assert_equals_rebuilt(one)


def test_a_buffered_run_is_found_by_the_end_of_its_job_over_two_servers(
    database_url: str,
) -> None:
    clock = ManualClock()
    with (
        service(database_url, clock=clock) as one,
        service(database_url, clock=clock) as other,
    ):
        set_schedule(one, "b", overlap=Overlap.BUFFER_ONE)
        for _ in range(3):
            clock.advance(60)
            look(one, other)
        outcomes = [run.outcome for run in runs(one)]
        assert outcomes == [RunOutcome.SUBMITTED, RunOutcome.BUFFERED, RunOutcome.OVERLAP]
        [job] = do(other, ClaimJobs(worker=WorkerId("w"), max_jobs=5), Claimed).jobs
        do(other, CompleteJob(job_id=job.id, attempt=job.attempt), JobUpdated)
        look(one, other)
        look(one, other)
        assert [run.outcome for run in runs(one)] == [*outcomes, RunOutcome.SUBMITTED]
        assert jobs(one) == 2
        assert_equals_rebuilt(one)


def test_a_schedule_that_was_deleted_and_made_again_knows_nothing_of_the_earlier_one(
    database_url: str,
) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        set_schedule(fairlog, "s")
        clock.advance(60)
        look(fairlog)
        do(fairlog, DeleteSchedule(name=ScheduleName("s")), ScheduleDecided)
        clock.advance(60)
        look(fairlog)
        assert len(runs(fairlog)) == 1
        set_schedule(fairlog, "s")
        assert_equals_rebuilt(fairlog)
        clock.advance(60)
        look(fairlog)
        assert [run.outcome for run in runs(fairlog)] == [RunOutcome.SUBMITTED] * 2
        assert_equals_rebuilt(fairlog)


def test_a_user_with_very_many_due_schedules_delays_no_other_user(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        for number in range(450):
            set_schedule(fairlog, f"a{number}", overlap=Overlap.ALLOW_ALL)
        set_schedule(fairlog, "zoë", user_id=UserId("zoë"))
        clock.advance(60)
        look(fairlog)
        found = runs(fairlog)
        assert len(found) == 451
        assert [run.name for run in found].index(ScheduleName("zoë")) < 200


def statements_of(seen: list[str], action: Callable[[], object]) -> list[str]:
    """Return the statements of an action that read or write schedules."""
    seen.clear()
    action()
    assert seen
    return [one for one in seen if "schedules_v" in one]


@pytest.mark.one_database
def test_where_nothing_is_due_a_look_is_one_read_and_a_batch_is_none(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        for number in range(50):
            set_schedule(fairlog, f"s{number}", 86_400)
        look(fairlog)
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        for engine in (fairlog.database.engine, fairlog.database.writing_engine):
            sa.event.listen(engine, "before_cursor_execute", note)
        claim = ClaimJobs(worker=WorkerId("w"), max_jobs=5)
        assert statements_of(seen, lambda: do(fairlog, claim, Claimed)) == []
        assert len(statements_of(seen, lambda: look(fairlog))) <= 1
        assert statements_of(seen, lambda: look(fairlog)) == []


def test_the_job_of_a_run_is_an_ordinary_one(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        set_schedule(fairlog, "s")
        clock.advance(60)
        look(fairlog)
        [run] = runs(fairlog)
        [job] = do(fairlog, ClaimJobs(worker=WorkerId("w"), max_jobs=5), Claimed).jobs
        assert run.job == job.id == JobId(3)
        assert fairlog.read_now(
            lambda connection: fairlog.past.bodies_at(connection, [job.id])
        ) == {job.id: b'{"n":1}'}
