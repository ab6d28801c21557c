"""Due jobs, when one user has very many of them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa

import entrypoints.service.fairlog as module
from domain.decisions.answers import Claimed, JobsUpdated, JobUpdated, Submitted
from domain.language.bodies import body_of
from domain.language.commands import ClaimJobs, EnforceDeadlines, FailJob, SubmitJob
from domain.language.events import JobReleased, JobRequeued
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from entrypoints.service.due_jobs import JOBS_PER_PAGE, READS_PER_PAGE_MAX, ROWS_PER_READ
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import ManualClock
from tests.support.core import (
    do,
    events_in,
    log_of,
    saved_rows,
    service,
)

LATER_SECONDS = 100.0
WORKER = WorkerId("w")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, lease_seconds=int(LATER_SECONDS)) as fairlog:
        yield fairlog


def submission(user: str, number: int, clock: ManualClock, in_seconds: float | None) -> SubmitJob:
    return SubmitJob(
        user_id=UserId(user),
        kind=Kind("k"),
        payload=body_of(number, "the payload"),
        run_at=None if in_seconds is None else clock.now() + timedelta(seconds=in_seconds),
    )


def schedule(fairlog: Fairlog, clock: ManualClock, user: str, count: int, seconds: float) -> None:
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        outcomes = fairlog.writer.execute_all(
            [submission(user, number, clock, seconds) for number in numbers]
        )
        assert all(isinstance(one, Submitted) for one in outcomes)


def act_on_all(fairlog: Fairlog) -> Sequence[tuple[str, str]]:
    """Have the clock act; what it did, in order: the event and its user."""
    after = len(log_of(fairlog))
    asyncio.run(fairlog.enforce_deadlines())
    return [
        (type(one.event).__name__, one.event.user_id)
        for one in log_of(fairlog)[after:]
        if isinstance(one.event, JobReleased | JobRequeued)
    ]


@pytest.mark.parametrize(
    "count", [JOBS_PER_PAGE * 3, ROWS_PER_READ * READS_PER_PAGE_MAX + JOBS_PER_PAGE]
)
def test_the_due_jobs_of_one_user_do_not_keep_the_others_waiting(
    fairlog: Fairlog, clock: ManualClock, count: int
) -> None:
    retried = do(fairlog, submission("carol", 1, clock, None), Submitted).job
    do(fairlog, submission("dave", 1, clock, None), Submitted)
    claimed = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=2), Claimed).jobs
    assert {job.user_id for job in claimed} == {"carol", "dave"}
    failure = FailJob(job_id=retried.id, attempt=1, error=body_of("once more", "the error"))
    do(fairlog, failure, JobUpdated)
    schedule(fairlog, clock, "alice", count, 0.1)
    schedule(fairlog, clock, "bob", 1, LATER_SECONDS)

    clock.advance(LATER_SECONDS + 1)  # and dave's lease is lost
    done = act_on_all(fairlog)

    first = set(done[:JOBS_PER_PAGE])
    assert {("JobReleased", "bob"), ("JobReleased", "carol"), ("JobRequeued", "dave")} <= first
    assert len(done) == count + 3, "all that was due was acted on, at once again after each page"


def test_what_another_server_has_acted_on_is_not_asked_for_again(
    database_url: str, fairlog: Fairlog, clock: ManualClock
) -> None:
    schedule(fairlog, clock, "alice", JOBS_PER_PAGE + 10, 1)
    clock.advance(2)
    with saved_rows(fairlog) as connection:
        assert len(fairlog._due(connection)) == JOBS_PER_PAGE  # held: the rest of them
    with service(database_url, clock=clock) as other:
        asyncio.run(other.enforce_deadlines())
    with saved_rows(fairlog) as connection:
        assert fairlog._due(connection) == []


def test_a_timer_that_falls_due_meanwhile_is_in_the_next_page(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    schedule(fairlog, clock, "alice", JOBS_PER_PAGE * 4, 1)
    schedule(fairlog, clock, "bob", 1, 3)
    bobs = JobId(len(log_of(fairlog)))
    clock.advance(2)
    with saved_rows(fairlog) as connection:
        first = fairlog._due(connection)
        assert bobs not in first
        clock.advance(2)
        assert bobs in fairlog._due(connection)


def test_timers_of_others_are_acted_on_while_forty_thousand_jobs_of_one_user_are_due(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    """Two seconds are some thousand events; here a few hundred come first."""
    retried = do(fairlog, submission("carol", 1, clock, None), Submitted).job
    do(fairlog, submission("dave", 1, clock, None), Submitted)  # whose lease will be lost
    do(fairlog, ClaimJobs(worker=WORKER, max_jobs=2), Claimed)
    schedule(fairlog, clock, "alice", 20_000, LATER_SECONDS - 2)
    schedule(fairlog, clock, "erin", 1, LATER_SECONDS - 2)  # at the same moment
    schedule(fairlog, clock, "alice", 20_000, LATER_SECONDS - 2)
    schedule(fairlog, clock, "bob", 1, LATER_SECONDS - 1)
    error = body_of("once more", "the error")
    in_seconds = LATER_SECONDS - 1
    failure = FailJob(job_id=retried.id, attempt=1, error=error, retry_in_seconds=in_seconds)
    do(fairlog, failure, JobUpdated)
    begun = events_in(fairlog)

    clock.advance(LATER_SECONDS - 2)
    acted: dict[str, int] = {}  # by user: events before the first that its timer brought about

    def act() -> None:
        before = events_in(fairlog)
        with saved_rows(fairlog) as connection:
            due = fairlog._due(connection)
        for place, job in enumerate(do(fairlog, EnforceDeadlines(jobs=due), JobsUpdated).jobs):
            acted.setdefault(job.user_id, before - begun + place)

    act()
    assert acted.keys() <= {"alice", "erin"}
    clock.advance(2)  # the timers of bob, carol and dave fall due meanwhile
    while {"bob", "carol", "dave", "erin"} - acted.keys():
        act()
        assert events_in(fairlog) - begun < 5 * JOBS_PER_PAGE, acted
    assert max(acted["bob"], acted["carol"], acted["dave"]) < 2 * JOBS_PER_PAGE, acted


@contextmanager
def counted_reads(fairlog: Fairlog) -> Iterator[list[str]]:
    """Collect the statements of the connections for reading."""
    statements: list[str] = []

    def note(_1: object, _2: object, statement: str, *_: object) -> None:
        statements.append(statement)

    engine = fairlog.database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def test_while_nothing_is_written_only_the_head_is_read_until_a_job_is_due(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    schedule(fairlog, clock, "alice", 1, 4)
    for _ in range(2):
        assert act_on_all(fairlog) == []
    with counted_reads(fairlog) as statements:
        clock.advance(3)
        asyncio.run(fairlog.enforce_deadlines())
        assert len([one for one in statements if not one.startswith("BEGIN")]) == 1
    clock.advance(1)
    assert act_on_all(fairlog) == [("JobReleased", "alice")]


def test_a_job_that_another_server_schedules_is_released_when_it_is_due(
    database_url: str, fairlog: Fairlog, clock: ManualClock
) -> None:
    for _ in range(2):
        assert act_on_all(fairlog) == []
    with service(database_url, clock=clock) as other:
        schedule(other, clock, "bob", 1, 0.5)
    assert act_on_all(fairlog) == []
    clock.advance(0.5)
    assert act_on_all(fairlog) == [("JobReleased", "bob")]


def test_rows_are_read_again_after_some_seconds_whatever_the_head_says(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    schedule(fairlog, clock, "alice", 1, LATER_SECONDS)
    for _ in range(2):
        assert act_on_all(fairlog) == []
    with counted_reads(fairlog) as statements:
        clock.advance(6)
        asyncio.run(fairlog.enforce_deadlines())
        assert any("due_at" in one for one in statements)


def test_a_quiet_check_waits_until_this_process_writes(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 60.0)

    async def story() -> None:
        fairlog.log_watcher.start()
        for _ in range(2):
            await asyncio.wait_for(fairlog.watch_deadlines(), 20)
        checking = asyncio.create_task(fairlog.watch_deadlines())
        await asyncio.sleep(0.05)
        assert not checking.done()
        await fairlog.submit(submission("alice", 1, clock, None))
        await asyncio.wait_for(checking, 20)
        await fairlog.log_watcher.close()

    asyncio.run(story())
