"""A capped user with a long line of jobs costs the others nothing: counted, not timed."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from domain.decisions.answers import Claimed, JobUpdated, LimitsSet
from domain.language.commands import ChangeLimit, ClaimJobs, CompleteJob, SubmitJob
from domain.language.errors import LogUnavailable
from domain.language.events import Scope
from domain.language.identifiers import Kind, UserId, WorkerId
from entrypoints.service.fairlog import Fairlog
from tests.support.core import do, outcomes, put, service
from tests.support.stories import body

KIND, WORKER, CAPPED = Kind("echo"), WorkerId("w"), UserId("capped")
OTHERS, CLAIMS, JOBS_PER_CLAIM = 40, 12, 10
LONG = 10_000
TRIES = 5
AT_ONCE = 1_000  # of one user: far below what the writer's queue takes of one


@contextmanager
def rows_read(fairlog: Fairlog) -> Iterator[list[int]]:
    """Return how many rows each transaction of the writer asked the storage engine for."""
    found: list[int] = []
    before = 0

    def note(connection: sa.Connection) -> None:
        nonlocal before
        driver: Any = connection.connection.dbapi_connection
        with driver.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            total = sum(int(value) for _, value in cursor.fetchall())
        found.append(total - before)
        before = total

    engine = fairlog.database.writing_engine
    sa.event.listen(engine, "commit", note)
    try:
        yield found
    finally:
        sa.event.remove(engine, "commit", note)


def fill(fairlog: Fairlog, user_id: UserId, jobs: int) -> None:
    commands = [
        SubmitJob(user_id=user_id, kind=KIND, payload=body(number), idempotency_key=str(number))
        for number in range(jobs)
    ]
    for begin in range(0, jobs, AT_ONCE):
        some = commands[begin : begin + AT_ONCE]
        for _ in range(TRIES):  # a busy machine may stall the database for longer than we wait
            found = outcomes(put(fairlog, *some))
            some = [
                command
                for command, outcome in zip(some, found, strict=True)
                if isinstance(outcome, LogUnavailable)
            ]
            assert sum(isinstance(one, Exception) for one in found) == len(some)
            if not some:
                break
        assert not some


def claims(fairlog: Fairlog) -> tuple[float, float]:
    """Rows read by the median claim, and milliseconds of the fastest."""
    milliseconds = []
    with rows_read(fairlog) as rows:
        for _ in range(CLAIMS):
            started = time.perf_counter()
            claimed = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=JOBS_PER_CLAIM), Claimed)
            milliseconds.append((time.perf_counter() - started) * 1e3)
            assert len(claimed.jobs) == JOBS_PER_CLAIM
            assert all(job.user_id != CAPPED for job in claimed.jobs)
        of_claims = rows[-CLAIMS:]
    return statistics.median(of_claims), min(milliseconds)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_capped_user_with_many_jobs_does_not_slow_the_claims_of_others(
    database_url: str,
) -> None:
    with service(database_url) as fairlog:
        for number in range(OTHERS):
            fill(fairlog, UserId(f"user-{number}"), 2 * CLAIMS * JOBS_PER_CLAIM // OTHERS + 6)
        before, before_ms = claims(fairlog)
        do(fairlog, ChangeLimit(scope=Scope.USER, user_id=CAPPED, running=2), LimitsSet)
        fill(fairlog, CAPPED, LONG)
        served = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=OTHERS + 2), Claimed).jobs
        capped = [job.id for job in served if job.user_id == CAPPED]
        if len(capped) < 2:  # their turn comes once a round
            served = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=OTHERS + 1), Claimed).jobs
            capped += [job.id for job in served if job.user_id == CAPPED]
        assert len(capped) == 2
        after, after_ms = claims(fairlog)
        with rows_read(fairlog) as rows:
            for job_id in capped:
                do(fairlog, CompleteJob(job_id=job_id, attempt=1), JobUpdated)
        ended = rows[-1]  # the first one is counted from the connection's beginning
    print(
        f"a claim of {JOBS_PER_CLAIM}: {before:.0f} rows read and {before_ms:.1f} ms before, "
        f"{after:.0f} and {after_ms:.1f} ms with {LONG} jobs of a capped user; "
        f"the end of one of theirs: {ended}"
    )
    assert after <= before * 1.2
    assert ended <= before
