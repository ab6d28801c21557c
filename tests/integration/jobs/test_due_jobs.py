"""Due jobs, when one user has very many of them."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from domain.decisions.decide import Claimed, JobUpdated, Submitted
from domain.language.bodies import body_of
from domain.language.commands import ClaimJobs, FailJob, SubmitJob
from domain.language.events import JobReleased, JobRequeued
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from entrypoints.service.due_jobs import JOBS_PER_PAGE, READS_PER_PAGE_MAX, ROWS_PER_READ
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import ManualClock
from tests.support.core import do, log_of, service

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
    with fairlog.database.read() as connection:
        assert len(fairlog._due(connection)) == JOBS_PER_PAGE  # held: the rest of them
    with service(database_url, clock=clock) as other:
        asyncio.run(other.enforce_deadlines())
    with fairlog.database.read() as connection:
        assert fairlog._due(connection) == []


def test_a_timer_that_falls_due_meanwhile_is_in_the_next_page(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    schedule(fairlog, clock, "alice", JOBS_PER_PAGE * 4, 1)
    schedule(fairlog, clock, "bob", 1, 3)
    bobs = JobId(len(log_of(fairlog)))
    clock.advance(2)
    with fairlog.database.read() as connection:
        first = fairlog._due(connection)
        assert bobs not in first
        clock.advance(2)
        assert bobs in fairlog._due(connection)
