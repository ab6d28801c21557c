"""Random graphs of jobs that come after others, with failures, cancellations, retries and kills.

The referee, who shares nothing with the domain, says of each event whether it may follow; that
nothing hangs, and that a rebuild gives the same rows, is checked at the end. More graphs:
`FAIRLOG_GRAPHS=1000 pytest tests/integration/jobs/test_after_graphs.py`.
"""

import os
import random
from contextlib import ExitStack
from typing import Final

import pytest

from domain.decisions.answers import Claimed, Submitted
from domain.jobs.job import ENDED
from domain.language.commands import CancelJob, Command, RetryJob, SubmitJob
from domain.language.errors import Refusal
from domain.language.events import AfterFailure, JobCancelled, JobFailed, ParentEnded
from domain.language.identifiers import JobId
from domain.language.moments import later
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.verification import verify_log
from tests.support.clock import ManualClock
from tests.support.core import (
    do,
    log_of,
    outcomes,
    put_as_one_batch,
    saved_rows,
    service,
    writer_of,
)
from tests.support.inline_rows import rows_of
from tests.support.referee import Referee
from tests.support.stories import ALICE, BOB, ECHO, SLEEP, body, claim, complete, fail

GRAPHS: Final = int(os.environ.get("FAIRLOG_GRAPHS", "24"))
GRAPHS_PER_LOG: Final = 8
JOBS_MAX: Final = 14  # of a graph
ROUNDS_MAX: Final = 400


class Graphs:
    """Several graphs at once in one log, by two services."""

    def __init__(self, services: list[Fairlog], clock: ManualClock, chance: random.Random) -> None:
        self.services = services
        self.clock = clock
        self.chance = chance
        self.jobs: list[JobId] = []

    @property
    def service(self) -> Fairlog:
        return self.chance.choice(self.services)

    def submit(self) -> None:
        """Submit a graph, job by job, or some of them in one batch."""
        chance, own = self.chance, list[JobId]()
        for number in range(chance.randint(2, JOBS_MAX)):
            known = own or self.jobs
            parents = chance.sample(known, min(len(known), chance.choice([0, 1, 1, 2, 3])))
            now = self.clock.now()
            command = SubmitJob(
                user_id=chance.choice([ALICE, BOB]),
                kind=chance.choice([ECHO, SLEEP]),
                payload=body([len(self.jobs), number]),
                deduplicate=False,
                after=tuple(sorted(parents)),
                after_failure=chance.choice(list(AfterFailure)),
                max_attempts=chance.choice([1, 2]),
                run_at=later(now, chance.choice([5.0, 40.0])) if chance.random() < 0.15 else None,
                expires_at=later(now, chance.choice([60.0, 300.0]))
                if chance.random() < 0.15
                else None,
            )
            own.append(do(self.service, command, Submitted).job.id)
            if chance.random() < 0.3:
                self.work()
        self.jobs += own

    def work(self) -> None:
        """Let a worker claim some jobs and end them, beside cancellations and retries."""
        chance = self.chance
        claimed = do(self.service, claim(chance.randint(1, 6)), Claimed).jobs
        commands: list[Command] = []
        for job in claimed:
            match chance.choice(["done", "done", "done", "failed", "retried", "lost"]):
                case "done":
                    commands.append(complete(job.attempt, job.id))
                case "failed":
                    commands.append(fail(job.attempt, job.id, may_retry=False))
                case "retried":
                    commands.append(fail(job.attempt, job.id))
                case _:
                    pass  # its lease ends
        if self.jobs and chance.random() < 0.2:
            commands.append(CancelJob(job_id=chance.choice(self.jobs)))
        if self.jobs and chance.random() < 0.15:
            commands.append(RetryJob(job_id=chance.choice(self.jobs)))
        if commands:
            for outcome in outcomes(put_as_one_batch(self.service, *commands)):
                assert not isinstance(outcome, Exception) or isinstance(outcome, Refusal), outcome
        if chance.random() < 0.2:  # a kill: what is in memory is lost, and rows are behind the log
            writer_of(self.service)._transactions._projections.forget()
        self.clock.advance(chance.choice([0.0, 1.0, 8.0]))
        if chance.random() < 0.5:
            self.service.recover(None)

    def finish(self) -> None:
        """Work until all jobs have ended."""
        for _ in range(ROUNDS_MAX):
            self.work()
            self.service.recover(None)
            with saved_rows(self.services[0]) as connection:
                found = self.services[0].jobs.find(connection, self.jobs)
            if all(job.state in ENDED and not job.children for job in found.values()):
                return
        raise AssertionError([job for job in found.values() if job.state not in ENDED])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(max(1, GRAPHS // GRAPHS_PER_LOG)))
def test_any_graph_runs_in_order_and_to_its_end(
    seed: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    # A batch tells few, and little stays in memory, so that all is read again and told later.
    if seed % 2:
        monkeypatch.setattr("domain.decisions.batch.CHILDREN_TOLD_PER_BATCH_MAX", 3)
        monkeypatch.setattr("domain.decisions.batch.CHILDREN_TOLD_AT_ONCE_MAX", 2)
    monkeypatch.setattr("projections.inline.live.ROWS_KEPT_MAX", chance.choice([0, 10, 80_000]))
    clock = ManualClock()
    with ExitStack() as stack:
        services = [stack.enter_context(service(database_url, clock=clock)) for _ in range(2)]
        graphs = Graphs(services, clock, chance)
        for _ in range(min(GRAPHS, GRAPHS_PER_LOG)):
            graphs.submit()
        graphs.finish()
        check(services[0])


def check(fairlog: Fairlog) -> None:
    referee = Referee(fairlog.policy)
    recorded = log_of(fairlog)
    referee.see_all(recorded)
    referee.assert_nothing_hangs()
    assert any(isinstance(one.event, ParentEnded) for one in recorded)
    fates = [one.event for one in recorded if isinstance(one.event, JobFailed | JobCancelled)]
    assert any(one.parent is not None for one in fates)
    inline = rows_of(fairlog)
    found: list[object] = []
    verify_log(fairlog, found.append, lambda _done, _total: None)
    assert found == []
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline
