"""A clock that steps, and a log that is ahead of it: nothing stands still, and it is shown."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from adapters.settings import Settings
from adapters.writer.retries import BATCH_SECONDS_MAX
from domain.decisions.answers import Answer, Claimed, JobUpdated, Submitted
from domain.jobs.job import State
from domain.language.commands import AcceptClock, ClaimJobs, FailJob, SubmitJob
from domain.language.errors import ClockInDoubt, RateLimited
from domain.language.events import ClockCorrected, CorrectionReason
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from domain.log.log_time import SECOND_LOOK_SECONDS
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.limit_reads import user_limits
from entrypoints.use_cases.verification import verify_log
from tests.support.clock import NOON, ManualClock
from tests.support.core import do, execute_now, log_of, saved_rows, service
from tests.support.server import AppServer, submit
from tests.support.stories import ERROR, body

HOUR, DAY = 3600.0, 86_400.0
USER = UserId("ada")
WORKER = WorkerId("w")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, user_limit=3) as fairlog:
        yield fairlog


def submission(
    number: int, in_seconds: float | None = None, clock: ManualClock | None = None
) -> SubmitJob:
    run_at = None
    if in_seconds is not None and clock is not None:
        run_at = clock.now() + timedelta(seconds=in_seconds)
    return SubmitJob(user_id=USER, kind=Kind("k"), payload=body(number), run_at=run_at)


def after_doubt(fairlog: Fairlog, clock: ManualClock, command: SubmitJob) -> Answer:
    with pytest.raises(ClockInDoubt):
        execute_now(fairlog, command)
    clock.advance(SECOND_LOOK_SECONDS)
    return execute_now(fairlog, command)


def state(fairlog: Fairlog, job: JobId) -> State:
    with saved_rows(fairlog) as connection:
        return fairlog.jobs.find(connection, [job])[job].state


def corrections(fairlog: Fairlog) -> list[CorrectionReason]:
    return [one.event.reason for one in log_of(fairlog) if isinstance(one.event, ClockCorrected)]


def assert_verified(fairlog: Fairlog) -> None:
    found: list[object] = []
    verified = verify_log(fairlog, found.append, lambda *_: None)
    assert verified.is_clean, found


@pytest.mark.parametrize("step", [DAY, -3 * HOUR])
def test_a_clock_that_is_wrong_for_one_write_leaves_no_trace(
    fairlog: Fairlog, clock: ManualClock, step: float
) -> None:
    do(fairlog, submission(1), Submitted)
    clock.step(step)
    with pytest.raises(ClockInDoubt) as doubt:
        execute_now(fairlog, submission(2))
    assert doubt.value.nothing_was_recorded
    clock.step(-step)
    second = do(fairlog, submission(2), Submitted)
    assert second.decided_at == clock.now()
    assert corrections(fairlog) == []


@pytest.mark.parametrize("step", [DAY, -3 * HOUR])
def test_windows_retries_and_schedules_go_on_while_the_clock_is_wrong(
    fairlog: Fairlog, clock: ManualClock, step: float
) -> None:
    first = do(fairlog, submission(1), Submitted).job
    do(fairlog, ClaimJobs(worker=WORKER, max_jobs=1), Claimed)
    do(fairlog, FailJob(job_id=first.id, attempt=1, error=ERROR), JobUpdated)
    later = do(fairlog, submission(2, 30, clock), Submitted).job
    clock.step(step)
    after_doubt(fairlog, clock, submission(3))
    with pytest.raises(RateLimited):
        execute_now(fairlog, submission(4))
    assert asyncio.run(user_limits(fairlog, USER)).remaining == 0
    clock.advance(5)
    asyncio.run(fairlog.enforce_deadlines())
    assert (state(fairlog, first.id), state(fairlog, later.id)) == (State.QUEUED, State.SCHEDULED)
    clock.advance(60)
    asyncio.run(fairlog.enforce_deadlines())
    assert state(fairlog, later.id) is State.QUEUED
    assert asyncio.run(user_limits(fairlog, USER)).remaining == 3
    do(fairlog, submission(4), Submitted)

    clock.step(-step)  # it is right again
    after_doubt(fairlog, clock, submission(5))
    assert fairlog.read_now(fairlog.log.now) == clock.now()
    assert corrections(fairlog) == [CorrectionReason.STEPPED] * 2
    assert_verified(fairlog)


@pytest.fixture
def ahead(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    """A log that was written when the clock was a day ahead, and a new process."""
    clock.step(DAY)
    with service(database_url, clock=clock, user_limit=3) as fairlog:
        for number in range(3):
            do(fairlog, submission(number), Submitted)
        do(fairlog, ClaimJobs(worker=WORKER, max_jobs=1), Claimed)
    clock.step(-DAY)
    with service(database_url, clock=clock, user_limit=3) as fairlog:
        yield fairlog


def test_a_log_that_is_ahead_of_the_clock_goes_on(ahead: Fairlog, clock: ManualClock) -> None:
    with pytest.raises(ClockInDoubt):
        execute_now(ahead, submission(4))
    clock.advance(SECOND_LOOK_SECONDS)
    with pytest.raises(RateLimited):
        execute_now(ahead, submission(4))
    assert asyncio.run(user_limits(ahead, USER)).remaining == 0
    clock.advance(60)
    assert asyncio.run(ahead.enforce_deadlines()) == 1  # the expired lease
    assert asyncio.run(user_limits(ahead, USER)).remaining == 3
    do(ahead, submission(4), Submitted)
    assert corrections(ahead) == [CorrectionReason.LOG_AHEAD]
    assert_verified(ahead)


def test_a_clock_that_is_accepted_is_approached_and_schedules_go_by_it(
    ahead: Fairlog, clock: ManualClock
) -> None:
    execute_now(ahead, AcceptClock())
    clock.advance(70)
    scheduled = do(ahead, submission(5, 10, clock), Submitted).job
    clock.advance(9)
    asyncio.run(ahead.enforce_deadlines())
    assert state(ahead, scheduled.id) is State.SCHEDULED
    clock.advance(1)
    asyncio.run(ahead.enforce_deadlines())
    assert state(ahead, scheduled.id) is State.QUEUED
    clock.advance(11 * DAY)
    assert ahead.read_now(ahead.log.now) == clock.now()
    do(ahead, submission(6), Submitted)
    execute_now(ahead, AcceptClock())
    assert corrections(ahead) == [CorrectionReason.ACCEPTED]
    assert_verified(ahead)


def test_another_server_reads_what_one_has_recorded_of_the_clock(
    database_url: str, fairlog: Fairlog, clock: ManualClock
) -> None:
    with service(database_url, clock=clock, user_limit=100) as other:
        do(other, submission(1), Submitted)
        do(fairlog, submission(2), Submitted)
        clock.step(DAY)
        after_doubt(fairlog, clock, submission(3))
        assert do(other, submission(4), Submitted).decided_at + timedelta(days=1) == clock.now()
        assert other.read_now(other.log.now) == fairlog.read_now(fairlog.log.now)


def test_the_difference_is_shown(database_url: str) -> None:
    clock = ManualClock(NOON)
    with AppServer(database_url, Settings(), clock) as server:
        submit(server.client)
        assert server.client.get("/readyz").json()["note"] is None
        clock.step(DAY)
        refused = server.client.post(
            "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": 1}
        )
        assert refused.status_code == 503, refused.text
        assert "clock" in refused.json()["detail"]
        assert "Retry-After" in refused.headers
        clock.advance(SECOND_LOOK_SECONDS)
        submit(server.client, payload=1)
        ready = server.client.get("/readyz")
        assert ready.status_code == 200, ready.text
        assert "86,400.0 s behind the database's clock" in ready.json()["note"]
        assert "fairlog_clock_ahead_seconds -86400.0" in metrics(server.client)


def metrics(client: httpx.Client) -> str:
    return client.get("/metrics").text


def test_callers_hear_of_a_doubtful_clock_in_time() -> None:
    assert SECOND_LOOK_SECONDS + 1 < BATCH_SECONDS_MAX, "most are answered after the second look"
