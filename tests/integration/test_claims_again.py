"""A claim that is asked again gives the same jobs or fewer, on every server and after a restart."""

import sqlalchemy as sa

from domain.claims import CLAIM_SECONDS
from domain.commands import WakeJobs
from domain.decide import Claimed, JobStands, JobsWoken, Submitted
from domain.identifiers import JobId
from entrypoints.composition import rebuild_projections
from entrypoints.service import Fairlog
from projections.jobs import noted_claims
from tests.support.core import ManualClock, do, log_of, outcomes, put, service
from tests.support.referee import Referee
from tests.support.stories import ALICE, BOB, OTHER_WORKER, claim, complete, submit


def ask(fairlog: Fairlog, jobs_max: int = 5) -> list[JobId]:
    return [job.id for job in do(fairlog, claim(jobs_max, claim_id="c"), Claimed).jobs]


def notes(fairlog: Fairlog) -> int:
    with fairlog.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(noted_claims)).scalar_one()


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
        do(other, WakeJobs(jobs=[first]), JobsWoken)
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
    with service(database_url, clock=clock) as one:
        assert ask(one) == []
    with service(database_url, clock=clock) as other:
        do(other, submit(), Submitted)
        assert ask(other) == []
        clock.advance(CLAIM_SECONDS)
        assert len(ask(other)) == 1


def test_a_claim_gives_its_jobs_in_the_same_order_on_any_server(database_url: str) -> None:
    with service(database_url) as one, service(database_url) as other:
        who = [BOB, ALICE, ALICE, BOB]
        submissions = [submit(user, payload=n, priority=n) for n, user in enumerate(who)]
        outcomes(put(one, *submissions))
        first = ask(one, 4)
        assert first != sorted(first)
        assert (ask(other), ask(one)) == (first, first)
        do(other, complete(1, first[1]), JobStands)
        left = [first[0], *first[2:]]
        assert (ask(other), ask(one)) == (left, left)


def test_notes_of_claims_that_are_over_are_removed(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        for number in range(30):
            clock.advance(CLAIM_SECONDS / 4)
            do(fairlog, claim(1, claim_id=f"c{number}"), Claimed)
            assert notes(fairlog) <= 5
        before = notes(fairlog)
        rebuild_projections(fairlog, [])
        assert notes(fairlog) == before
