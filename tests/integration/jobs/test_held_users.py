"""Users whose throttles have a new window at the same moment, when there are very many of them."""

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest

from domain.decisions.answers import Claimed, JobUpdated, LimitsSet, Submitted
from domain.language.bodies import body_of
from domain.language.commands import ChangeLimit, ClaimJobs, CompleteJob, FailJob, SubmitJob
from domain.language.events import JobReleased, JobRequeued, LineUpdated, Recorded, Scope
from domain.language.identifiers import Kind, PlanName, UserId, WorkerId
from domain.language.limits import Rate
from domain.language.moments import later
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.held_users import USERS_PER_PAGE
from tests.support.clock import NOON, ManualClock
from tests.support.core import do, log_of, service
from tests.support.inline_rows import rows_of
from tests.support.live_line import limit_user

HERD: Final = 8 * USERS_PER_PAGE
WINDOW_SECONDS: Final = 100
CALL: Final = Kind("call")
OPEN: Final = PlanName("open")
OTHERS: Final = [UserId(name) for name in ("retry", "lease", "schedule")]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    """A herd of users waits for the end of the window, which is WINDOW_SECONDS away."""
    with service(database_url, clock=clock, lease_seconds=WINDOW_SECONDS + 3) as fairlog:
        held = ChangeLimit(
            scope=Scope.PLAN, plan=PlanName("default"), throttle=Rate(1, WINDOW_SECONDS)
        )
        do(fairlog, held, LimitsSet)
        do(fairlog, ChangeLimit(scope=Scope.PLAN, plan=OPEN, weight=100), LimitsSet)
        for user in OTHERS:
            do(fairlog, limit_user(user, plan=OPEN), LimitsSet)
        users = [UserId(f"held-{number}") for number in range(HERD)]
        submit(fairlog, [user for user in users for _ in range(2)])
        assert len(claim(fairlog, HERD)) == HERD
        assert claim(fairlog, 10) == []
        yield fairlog


def submit(fairlog: Fairlog, users: list[UserId], run_in: float | None = None) -> None:
    for start in range(0, len(users), 1_000):
        commands = [
            SubmitJob(
                user_id=user,
                kind=CALL,
                payload=body_of(number, "payload"),
                deduplicate=False,
                run_at=None if run_in is None else later(NOON, run_in),
            )
            for number, user in enumerate(users[start : start + 1_000])
        ]
        outcomes = fairlog.writer.execute_all(commands)
        assert all(isinstance(one, Submitted) for one in outcomes)


def claim(fairlog: Fairlog, jobs_max: int) -> list[str]:
    """Claim jobs, complete them, and return their users."""
    served: list[str] = []
    while len(served) < jobs_max:
        most = min(1_000, jobs_max - len(served))
        jobs = do(fairlog, ClaimJobs(worker=WorkerId("w"), max_jobs=most), Claimed).jobs
        if not jobs:
            break
        done = [CompleteJob(job_id=job.id, attempt=job.attempt) for job in jobs]
        assert all(isinstance(one, JobUpdated) for one in fairlog.writer.execute_all(done))
        served += [job.user_id for job in jobs]
    return served


def set_timers(fairlog: Fairlog) -> None:
    """Let a retry, a schedule and the end of a lease fall due some seconds after the window."""
    submit(fairlog, [UserId("retry"), UserId("lease")])
    jobs = do(fairlog, ClaimJobs(worker=WorkerId("other"), max_jobs=2), Claimed).jobs
    retried = next(job for job in jobs if job.user_id == "retry")
    failure = FailJob(
        job_id=retried.id,
        attempt=1,
        error=body_of("once more", "error"),
        retry_in_seconds=WINDOW_SECONDS + 3,
    )
    do(fairlog, failure, JobUpdated)
    submit(fairlog, [UserId("schedule")], WINDOW_SECONDS + 3)


def updates_before(fairlog: Fairlog, after: int) -> dict[str, int]:
    """Return how many pages of held users came between that the timers fell due and their events.

    They fall due when the clock has gone on by 3 seconds.
    """
    due_at = later(NOON, WINDOW_SECONDS + 3)
    pages = 0
    found: dict[str, int] = {}
    for one in log_of(fairlog)[after:]:
        if isinstance(one.event, LineUpdated) and one.recorded_at >= due_at:
            pages += 1
        elif isinstance(one.event, JobReleased | JobRequeued) and one.event.user_id in OTHERS:
            found[one.event.user_id] = pages
    return found


def updated(recorded: list[Recorded]) -> list[list[UserId]]:
    return [list(one.event.users) for one in recorded if isinstance(one.event, LineUpdated)]


@pytest.mark.parametrize("claims", [0, 3])
def test_timers_that_fall_due_while_a_herd_comes_back_wait_for_two_pages_of_it(
    fairlog: Fairlog, clock: ManualClock, claims: int
) -> None:
    """Time goes on by 1 s with each batch, so the timers fall due after some pages."""
    set_timers(fairlog)
    before = len(log_of(fairlog))
    clock.advance(WINDOW_SECONDS)
    for _ in range(claims):  # which bring back those whom the writer has in memory, some at a time
        assert len(claim(fairlog, 1)) == 1
    assert all(len(users) <= USERS_PER_PAGE for users in updated(log_of(fairlog)[before:]))

    fairlog.writer.observe(lambda _: clock.advance(1))
    asyncio.run(fairlog.enforce_deadlines())

    pages = updated(log_of(fairlog)[before:])
    came_back = [user for users in pages for user in users]
    assert sorted(came_back) == sorted(f"held-{number}" for number in range(HERD)), "each once"
    assert max(map(len, pages)) <= USERS_PER_PAGE
    waited = updates_before(fairlog, before)
    assert waited.keys() == set(OTHERS)
    assert max(waited.values()) <= 2, waited
    inline = rows_of(fairlog)
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline
