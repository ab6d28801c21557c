"""Decisions about attempts, expiry and limits, and the events that record them."""

import asyncio
from collections.abc import Iterator

import pytest

from adapters.log.audit_log import bodies_at
from domain.decisions.answers import Claimed, JobUpdated, Submitted
from domain.jobs.job import Job, State
from domain.language.commands import (
    CancelJob,
    ChangeLimit,
    DeletePlan,
    EnforceDeadlines,
    RetryJob,
)
from domain.language.errors import LeaseHasEnded, RateLimited, TimeWasUp
from domain.language.events import (
    Event,
    JobCompleted,
    LimitChanged,
    RateLimitDecided,
    Scope,
    named_body,
)
from domain.language.identifiers import DEFAULT_PLAN
from domain.language.moments import later
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import ManualClock
from tests.support.core import (
    do,
    execute_now,
    head_locked,
    log_of,
    outcomes,
    put_as_one_batch,
    service,
)
from tests.support.stories import ALICE, claim, complete, fail, give_back, submit

LEASE_SECONDS = 30


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, lease_seconds=LEASE_SECONDS) as fairlog:
        yield fairlog


def claimed(fairlog: Fairlog) -> Job:
    [job] = do(fairlog, claim(), Claimed).jobs
    return job


def claim_and_give_back(fairlog: Fairlog) -> None:
    job = claimed(fairlog)
    do(fairlog, give_back(job.attempt, job.id), JobUpdated)


def test_after_eleven_returns_the_first_failure_waits_as_any_first_one(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    do(fairlog, submit(max_attempts=3), Submitted)
    for _ in range(11):
        claim_and_give_back(fairlog)
    for failures in (1, 2, 3):
        job = claimed(fairlog)
        failed = do(fairlog, fail(job.attempt, job.id), JobUpdated).job
        assert failed.state is (State.FAILED if failures == 3 else State.SCHEDULED)
        if failures == 1:
            assert failed.due_at is not None
            assert (failed.due_at - clock.now()).total_seconds() <= 1.0
        clock.advance(5)
        execute_now(fairlog, EnforceDeadlines(jobs=[job.id]))


def test_a_job_that_was_claimed_and_given_back_expires_all_the_same(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    do(fairlog, submit(expires_at=later(clock.now(), 60)), Submitted)
    claim_and_give_back(fairlog)
    clock.advance(60)
    assert do(fairlog, claim(), Claimed).jobs == []


def test_a_retry_keeps_an_expiry_that_is_still_ahead(fairlog: Fairlog, clock: ManualClock) -> None:
    job = do(fairlog, submit(expires_at=later(clock.now(), 60)), Submitted).job
    do(fairlog, CancelJob(job_id=job.id), JobUpdated)
    do(fairlog, RetryJob(job_id=job.id), JobUpdated)
    clock.advance(60)
    assert do(fairlog, claim(), Claimed).jobs == []


@pytest.mark.parametrize(("seconds", "refusal"), [(5, TimeWasUp), (LEASE_SECONDS, LeaseHasEnded)])
def test_an_outcome_counts_until_its_time_or_its_lease_has_ended_and_not_after(
    fairlog: Fairlog, clock: ManualClock, seconds: float, refusal: type[Exception]
) -> None:
    """Nobody has looked since: it goes by the log's clock alone."""
    timeout_seconds = seconds if refusal is TimeWasUp else None
    for payload, is_late in enumerate((False, True)):
        submission = submit(payload=payload, timeout_seconds=timeout_seconds)
        do(fairlog, submission, Submitted)
        job = claimed(fairlog)
        clock.advance(seconds if is_late else seconds - 0.001)
        if is_late:
            with pytest.raises(refusal):
                execute_now(fairlog, complete(job.attempt, job.id))
        else:
            do(fairlog, complete(job.attempt, job.id), JobUpdated)
    log = log_of(fairlog)
    assert sum(isinstance(one.event, JobCompleted) for one in log) == 1
    with fairlog.database.read() as connection:
        stored = set(bodies_at(connection, [one.position for one in log]))
    assert stored == {one.position for one in log if named_body(one.event)}


def test_a_refusal_stands_in_the_log_before_a_limit_that_was_raised_behind_it(
    database_url: str, clock: ManualClock
) -> None:
    with service(database_url, clock=clock, user_limit=1) as fairlog:
        do(fairlog, submit(payload=1), Submitted)
        raised = ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=2)
        outcomes(put_as_one_batch(fairlog, submit(payload=2), raised, submit(payload=3)))
        found = [in_short(one.event) for one in log_of(fairlog)]
    assert found == [
        "1 of 1",
        "JobSubmitted",
        "refused at 1 of 1",
        "LimitChanged",
        "2 of 2",
        "JobSubmitted",
    ]


def in_short(event: Event) -> str:
    if isinstance(event, RateLimitDecided):
        return f"{'' if event.allowed else 'refused at '}{event.used} of {event.limit}"
    return type(event).__name__


def test_a_limit_raised_through_another_server_clears_the_cache_while_a_report_waits(
    database_url: str, clock: ManualClock
) -> None:
    async def story(fairlog: Fairlog, other: Fairlog) -> None:
        for _ in range(2):  # the log decides, and then the cache
            with pytest.raises(RateLimited):
                await fairlog.limiter.submit(ALICE, submit())
        await other.change_limit(ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=1))
        with head_locked(fairlog):
            report = asyncio.create_task(fairlog.limiter.report())
            await asyncio.sleep(0)  # it is under way, and cannot end
            await fairlog.limiter.watch_limits()
            assert not report.done()
            assert fairlog.limiter.refuse(ALICE) is None
        await report
        assert isinstance(await fairlog.limiter.submit(ALICE, submit()), Submitted)
        assert any(isinstance(one.event, LimitChanged) for one in log_of(fairlog))

    with (
        service(database_url, clock=clock, user_limit=0) as fairlog,
        service(database_url, clock=clock, user_limit=0) as other,
    ):
        asyncio.run(story(fairlog, other))


@pytest.mark.parametrize("server", ["this one", "another"])
def test_a_plan_that_is_deleted_clears_the_cache_of_refusals(
    database_url: str, clock: ManualClock, server: str
) -> None:
    """Its users have the limits of the server then, which may have room."""

    async def story(fairlog: Fairlog, deleting: Fairlog) -> None:
        limit = ChangeLimit(scope=Scope.PLAN, plan=DEFAULT_PLAN, limit=0)
        await fairlog.change_limit(limit)
        with pytest.raises(RateLimited):
            await fairlog.limiter.submit(ALICE, submit())
        await fairlog.limiter.watch_limits()  # the change of the limit has been noticed by now
        with pytest.raises(RateLimited):
            await fairlog.limiter.submit(ALICE, submit())
        assert fairlog.limiter.refuse(ALICE) is not None
        await deleting.writer.execute(DeletePlan(plan=DEFAULT_PLAN))
        await fairlog.limiter.watch_limits()
        assert isinstance(await fairlog.limiter.submit(ALICE, submit()), Submitted)

    with (
        service(database_url, clock=clock) as fairlog,
        service(database_url, clock=clock) as other,
    ):
        asyncio.run(story(fairlog, fairlog if server == "this one" else other))
