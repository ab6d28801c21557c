"""A claim that is asked again gives the same jobs or fewer, on every server and after a restart."""

import itertools

import pytest
import sqlalchemy as sa

from domain.decisions.answers import Claimed, JobsUpdated, JobUpdated, Submitted
from domain.jobs.claims import CLAIM_SECONDS
from domain.language.commands import EnforceDeadlines
from domain.language.identifiers import JobId
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from projections.inline.empty_claims import empty_claims
from projections.inline.jobs import noted_claims
from tests.support.clock import ManualClock
from tests.support.core import (
    do,
    log_of,
    outcomes,
    put,
    saved_rows,
    service,
)
from tests.support.referee import Referee
from tests.support.stories import ALICE, BOB, OTHER_WORKER, claim, complete, give_back, submit


def ask(fairlog: Fairlog, jobs_max: int = 5) -> list[JobId]:
    return [job.id for job in do(fairlog, claim(jobs_max, claim_id="c"), Claimed).jobs]


def count(fairlog: Fairlog, table: sa.Table) -> int:
    with saved_rows(fairlog) as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_a_claim_starts_no_other_jobs_on_any_server_once_its_own_have_gone(
    database_url: str,
) -> None:
    clock = ManualClock()
    with (
        service(database_url, clock=clock) as one,
        service(database_url, clock=clock) as other,
    ):
        first = do(one, submit(), Submitted).job.id
        assert ask(one, 1) == [first]
        clock.advance(30)
        do(other, EnforceDeadlines(jobs=[first]), JobsUpdated)
        assert len(do(other, claim(1, worker=OTHER_WORKER, claim_id="o"), Claimed).jobs) == 1
        do(other, submit(payload="new"), Submitted)
        assert (ask(one), ask(other)) == ([], [])
    with service(database_url, clock=clock) as restarted:
        assert ask(restarted) == []
        rebuild_projections(restarted, [])
        assert ask(restarted) == []
        clock.advance(CLAIM_SECONDS - 30)
        assert len(ask(restarted)) == 1
        Referee(restarted.policy).see_all(log_of(restarted))


def test_a_claim_that_gave_nothing_gives_nothing_on_any_server(database_url: str) -> None:
    clock = ManualClock()
    with (
        service(database_url, clock=clock) as one,
        service(database_url, clock=clock) as other,
    ):
        assert ask(one) == []
        do(other, submit(), Submitted)
        assert (ask(other), ask(one)) == ([], [])
    with service(database_url, clock=clock) as restarted:
        assert ask(restarted) == []
        rebuild_projections(restarted, [])
        clock.advance(CLAIM_SECONDS - 0.000001)
        assert ask(restarted) == []
        clock.advance(0.000001)
        assert len(ask(restarted)) == 1


def test_a_server_that_knew_the_claim_hears_that_another_gave_it_nothing(
    database_url: str,
) -> None:
    clock = ManualClock()
    with (
        service(database_url, clock=clock) as one,
        service(database_url, clock=clock) as other,
    ):
        waits = claim(1, claim_id="c", may_wait=True)
        assert do(one, waits, Claimed).jobs == []
        assert ask(other) == []
        do(one, submit(), Submitted)
        assert do(one, waits, Claimed) == Claimed([], is_repeated=True)


def test_the_log_does_not_grow_by_claims_that_are_given_nothing(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        do(fairlog, submit(), Submitted)
        assert len(ask(fairlog)) == 1
        before, batches = log_of(fairlog), fairlog.writer.stats.batches
        for number in range(20):
            clock.advance(1)
            assert do(fairlog, claim(1, claim_id=f"c{number}"), Claimed).jobs == []
        assert count(fairlog, empty_claims) == 20
        assert log_of(fairlog) == before
        assert fairlog.writer.stats.batches == batches


def test_without_the_table_of_empty_claims_a_start_makes_it_again(database_url: str) -> None:
    with service(database_url) as fairlog:
        assert ask(fairlog) == []
        with fairlog.database.write() as connection:
            empty_claims.drop(connection)
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        assert len(ask(fairlog)) == 1
        assert do(fairlog, claim(1, claim_id="d"), Claimed).jobs == []
        assert count(fairlog, empty_claims) == 1


def test_a_claim_gives_its_jobs_in_the_same_order_on_any_server(database_url: str) -> None:
    with service(database_url) as one, service(database_url) as other:
        who = [BOB, ALICE, ALICE, BOB]
        submissions = [submit(user, payload=n, priority=n) for n, user in enumerate(who)]
        outcomes(put(one, *submissions))
        first = ask(one, 4)
        assert first != sorted(first)
        assert (ask(other), ask(one)) == (first, first)
        do(other, complete(1, first[1]), JobUpdated)
        left = [first[0], *first[2:]]
        assert (ask(other), ask(one)) == (left, left)


def test_notes_of_claims_that_are_over_are_removed(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        do(fairlog, submit(), Submitted)
        for number in range(30):
            clock.advance(CLAIM_SECONDS / 4)
            [job] = do(fairlog, claim(1, claim_id=f"c{number}"), Claimed).jobs
            do(fairlog, give_back(job.attempt, job.id), JobUpdated)
            assert 0 < count(fairlog, noted_claims) <= 5 or number == 0
        before = count(fairlog, noted_claims)
        rebuild_projections(fairlog, [])
        assert count(fairlog, noted_claims) == before


def test_rows_of_claims_that_were_given_nothing_are_removed_once_they_are_over(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.inline.empty_claims.ROWS_PER_REMOVAL_MAX", 4)
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        numbers = itertools.count()
        for _ in range(6):
            do(fairlog, claim(1, claim_id=f"c{next(numbers)}"), Claimed)
        assert count(fairlog, empty_claims) == 6
        clock.advance(CLAIM_SECONDS)
        left = []
        for _ in range(3):
            do(fairlog, claim(1, claim_id=f"c{next(numbers)}"), Claimed)
            left.append(count(fairlog, empty_claims))
        assert left == [3, 2, 3]  # four go, then the last two, and nothing more for a minute
        for _ in range(60):
            clock.advance(CLAIM_SECONDS / 10)
            do(fairlog, claim(1, claim_id=f"c{next(numbers)}"), Claimed)
            assert count(fairlog, empty_claims) <= 14
