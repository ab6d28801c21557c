"""The worker runtime against a source that is away, slow or forgetful."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import Raw

from fairlog_client.handlers.loading import Handler, JobContext
from fairlog_client.worker.bodies import encoded
from fairlog_client.worker.execution import ignore_progress
from fairlog_client.worker.job_source import AttemptLost, SourceAway, SourceError, SourceRefused
from fairlog_client.worker.outcomes import (
    AttemptKey,
    ClaimedJob,
    Completed,
    Failed,
    Outcome,
    ProgressReport,
    Returned,
)
from fairlog_client.worker.runner import HandlerJob, HandlerRunner, LocalExecutor
from fairlog_client.worker.worker import Worker
from tests.support.waiting import until

AWAY = SourceAway("The source is away.")


class FakeSource:
    """Gives the jobs that a test puts into it, and fails as the test says."""

    def __init__(self, lease_seconds: float = 30.0) -> None:
        self.lease_seconds = lease_seconds
        self.jobs: list[ClaimedJob] = []
        self.claim_errors: list[Exception] = []  # of the next claims
        self.claims: list[tuple[int, str]] = []  # (max_jobs, claim_id)
        self.begins: list[int] = []  # as each claim said
        self.begun: list[list[AttemptKey]] = []  # that heartbeats told
        self.given: dict[str, list[ClaimedJob]] = {}  # by claim_id
        self.waits = True  # whether a claim waits for work
        self.heartbeats: list[list[AttemptKey]] = []
        self.heartbeat_errors: list[Exception] = []
        self.lost: set[int] = set()
        self.progress: list[tuple[AttemptKey, ProgressReport]] = []
        self.cancelled: list[AttemptKey] = []  # and not heard of yet
        self.deliveries: list[list[Outcome]] = []
        self.settle_errors: list[Exception] = []  # of the next deliveries as a whole
        self.claims_at_failures: list[int] = []
        self.answers: dict[int, Exception] = {}  # to one outcome, once
        self.settle_gate = asyncio.Event()
        self.settle_gate.set()
        self.settled: list[Outcome] = []

    async def claim(
        self, max_jobs: int, kinds: Sequence[str], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        assert max_jobs > 0
        self.begins.append(begins)
        assert kinds
        self.claims.append((max_jobs, claim_id))
        if self.claim_errors:
            raise self.claim_errors.pop(0)
        if claim_id not in self.given:
            if self.waits:
                await until(lambda: bool(self.jobs), wait_seconds)
            self.given[claim_id], self.jobs = self.jobs[:max_jobs], self.jobs[max_jobs:]
        return self.given[claim_id]

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        return self.given.get(claim_id, [])

    async def heartbeat(
        self,
        held: Sequence[AttemptKey],
        begun: Sequence[AttemptKey],
        progress: Mapping[AttemptKey, ProgressReport],
    ) -> Sequence[AttemptKey]:
        self.progress += progress.items()
        if progress:
            pass
        elif begun:
            self.begun.append(list(begun))
        else:
            self.heartbeats.append(list(held))
        if self.heartbeat_errors:
            raise self.heartbeat_errors.pop(0)
        return [key for key in held if key[0] in self.lost]

    async def wait_for_cancellation(
        self, held: Sequence[AttemptKey], seconds: float
    ) -> Sequence[AttemptKey]:
        assert seconds > 0
        assert not self.lost.intersection(job_id for job_id, _ in held), "it is known to be lost"
        with contextlib.suppress(TimeoutError):
            await until(lambda: bool(self.cancelled), seconds)
        heard, self.cancelled = self.cancelled, []
        return heard

    async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        self.deliveries.append(list(outcomes))
        await self.settle_gate.wait()
        if self.settle_errors:
            self.claims_at_failures.append(len(self.claims))
            raise self.settle_errors.pop(0)
        answers = [self.answers.pop(outcome.job_id, None) for outcome in outcomes]
        self.settled += [one for one, answer in zip(outcomes, answers, strict=True) if not answer]
        return answers


def job(
    number: int,
    *,
    kind: str = "work",
    attempt: int = 1,
    timeout_seconds: float | None = None,
    started: bool = True,
    alone: bool = False,
) -> ClaimedJob:
    return ClaimedJob(
        id=number,
        user_id="ada",
        kind=kind,
        payload=Raw(b"%d" % number),
        attempt=attempt,
        timeout_seconds=timeout_seconds,
        started=started,
        alone=alone,
    )


def done(number: int, *, attempt: int = 1) -> Completed:
    return Completed(job_id=number, attempt=attempt, result=encoded(number, "result"))


async def work(payload: int) -> int:
    return payload


@asynccontextmanager
async def working(
    source: FakeSource,
    function: Callable[..., Any] = work,
    concurrency: int = 2,
    prefetch: int | None = 0,
) -> AsyncIterator[Worker]:
    handler = Handler(
        kind="work",
        function=function,
        is_async=inspect.iscoroutinefunction(function),
        wants_job="job" in inspect.signature(function).parameters,
    )
    worker = Worker(source, LocalExecutor({"work": handler}), concurrency, prefetch=prefetch)
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop(grace_seconds=0.0)


@pytest.mark.anyio
async def test_an_outcome_whose_delivery_failed_is_delivered_before_the_next_claim() -> None:
    source = FakeSource()
    source.jobs = [job(1)]
    source.settle_errors = [AWAY, SourceAway("Too much."), RuntimeError("a fault of ours")]
    async with working(source, concurrency=1):
        await until(lambda: len(source.deliveries) == 2)
        source.jobs = [job(2), job(3)]  # the first may go to a claim that is under way
        await until(lambda: len(source.settled) == 3)
    assert source.settled == [done(1), done(2), done(3)]
    assert all(delivery[0] == done(1) for delivery in source.deliveries[:4])
    assert max(source.claims_at_failures) <= 2


@pytest.mark.anyio
async def test_only_the_outcomes_that_the_source_could_not_take_are_delivered_again() -> None:
    source = FakeSource()
    source.jobs = [job(1), job(2)]
    source.answers = {1: AWAY}
    async with working(source):
        await until(lambda: len(source.settled) == 2)
    assert source.deliveries == [[done(1), done(2)], [done(1)]]


@pytest.mark.anyio
async def test_outcomes_that_end_while_a_delivery_is_under_way_go_together() -> None:
    source = FakeSource()
    source.jobs = [job(number) for number in range(1, 7)]
    source.settle_gate.clear()
    async with working(source, concurrency=2):
        await until(lambda: not source.jobs and len(source.claims) == 4)
        assert source.deliveries == [[done(1), done(2)]]
        source.settle_gate.set()
        await until(lambda: len(source.settled) == 6)
    assert source.deliveries == [[done(1), done(2)], [done(number) for number in range(3, 7)]]


@pytest.mark.anyio
async def test_the_outcome_of_an_attempt_that_is_no_longer_current_is_dropped() -> None:
    source = FakeSource()
    source.jobs = [job(1), job(2)]
    source.answers = {1: AttemptLost("job 1: attempt 2 is current, not 1")}
    async with working(source):
        await until(lambda: len(source.settled) == 1)
        source.jobs = [job(3)]
        await until(lambda: len(source.settled) == 2)
    assert source.settled == [done(2), done(3)]
    assert source.deliveries == [[done(1), done(2)], [done(3)]]


@pytest.mark.anyio
async def test_an_outcome_that_meets_a_fault_nobody_foresaw_is_tried_again() -> None:
    source = FakeSource()
    source.jobs = [job(1)]
    source.answers = {1: SourceError("The database refused this command.")}
    async with working(source):
        await until(lambda: len(source.settled) == 1)
    assert source.settled == [done(1)]


@pytest.mark.parametrize(
    ("answer", "may_retry"),
    [(SourceError("The database refused it."), True), (SourceRefused("Of no use."), False)],
)
@pytest.mark.anyio
async def test_a_result_that_cannot_be_recorded_fails_its_attempt(
    answer: Exception, *, may_retry: bool
) -> None:
    class Refusing(FakeSource):
        async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
            answers = await super().report(outcomes)
            self.settled = [one for one in self.settled if isinstance(one, Failed)]
            return [
                answer if isinstance(one, Completed) else found
                for one, found in zip(outcomes, answers, strict=True)
            ]

    source = Refusing()
    source.jobs = [job(1)]
    async with working(source):
        await until(lambda: len(source.settled) == 1)
    [outcome] = source.settled
    assert isinstance(outcome, Failed)
    assert str(answer).encode() in outcome.error
    assert outcome.may_retry is may_retry


@pytest.mark.anyio
async def test_one_outcome_that_is_not_taken_does_not_keep_the_worker_from_its_work() -> None:
    class Deaf(FakeSource):
        async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
            answers = await super().report(outcomes)
            return [
                AWAY if one.job_id == 1 else found
                for one, found in zip(outcomes, answers, strict=True)
            ]

    source = Deaf()
    source.jobs = [job(number) for number in range(1, 9)]
    async with working(source, concurrency=2):
        await until(lambda: {one.job_id for one in source.settled} >= set(range(2, 9)))


@pytest.mark.anyio
async def test_a_claim_whose_answer_was_lost_is_asked_again_under_the_same_id() -> None:
    source = FakeSource()
    source.claim_errors = [AWAY, SourceAway("Too much."), RuntimeError("a fault of ours")]
    source.jobs = [job(1)]
    async with working(source, concurrency=1):
        await until(lambda: len(source.settled) == 1)
        await until(lambda: len(source.claims) == 5)
    ids = [claim_id for _, claim_id in source.claims]
    assert len(set(ids[:4])) == 1
    assert ids[4] != ids[3]


@pytest.mark.anyio
async def test_a_source_that_is_away_or_answers_nothing_at_once_is_not_asked_in_a_busy_loop() -> (
    None
):
    async def claims_in_a_second(source: FakeSource) -> int:
        async with working(source):
            await asyncio.sleep(1.0)  # the time itself is what is tested
        return len(source.claims)

    away, empty = FakeSource(), FakeSource()
    away.claim_errors = [AWAY] * 1000
    empty.waits = False
    counts = await asyncio.gather(claims_in_a_second(away), claims_in_a_second(empty))
    assert all(2 <= count <= 6 for count in counts), counts


@pytest.mark.anyio
async def test_a_worker_whose_claims_are_refused_says_why_and_ends_in_order() -> None:
    source = FakeSource()
    source.jobs = [job(1)]
    async with working(source, concurrency=1) as worker:
        await until(lambda: len(source.settled) == 1)
        source.claim_errors = [SourceRefused("No such thing.")]
        source.jobs = [job(2)]
        refused = await worker.claims_end()
    assert str(refused) == "No such thing."
    assert source.settled == [done(1), done(2)]


@pytest.mark.anyio
async def test_no_more_jobs_are_in_hand_than_slots_and_prefetch_allow() -> None:
    running: set[int] = set()
    peaks: list[int] = []
    release = asyncio.Event()

    async def wait(payload: int) -> int:
        running.add(payload)
        peaks.append(len(running))
        await release.wait()
        running.discard(payload)
        return payload

    source = FakeSource()
    source.jobs = [job(number) for number in range(1, 21)]
    async with working(source, wait, concurrency=3, prefetch=2):
        await until(lambda: len(source.jobs) == 15 and len(running) == 3)
        assert [max_jobs for max_jobs, _ in source.claims] == [5]
        release.set()
        await until(lambda: len(source.settled) == 20)
    assert max(peaks) == 3
    assert all(max_jobs <= 5 for max_jobs, _ in source.claims)


@pytest.mark.anyio
async def test_what_was_claimed_ahead_is_returned_when_handlers_turn_slow() -> None:
    slow_from = 1001
    release = asyncio.Event()

    async def work_or_wait(payload: int) -> int:
        if payload >= slow_from:
            await release.wait()
        return payload

    source = FakeSource()
    source.jobs = [job(number) for number in range(1, slow_from)]
    async with working(source, work_or_wait, concurrency=2, prefetch=None):
        await until(lambda: any(jobs_max > 2 for jobs_max, _ in source.claims))
        source.jobs += [job(number) for number in range(slow_from, slow_from + 100)]
        # On a busy machine, some that are not slow may have waited as long.
        await until(
            lambda: any(
                isinstance(one, Returned) and one.job_id >= slow_from for one in source.settled
            )
        )
        returned = [one for one in source.settled if isinstance(one, Returned)]
        assert not any(one.begun for one in returned)
        release.set()
        await until(lambda: len(source.settled) == 1100)
    ended = [one for one in source.settled if isinstance(one, Completed)]
    assert ended == [done(one.job_id) for one in sorted(ended, key=lambda one: one.job_id)]


@pytest.mark.anyio
async def test_no_claim_is_made_once_the_wait_for_it_has_outlasted_the_reason() -> None:
    """A worker that cannot run handlers claims nothing; by then it may want nothing."""
    release = asyncio.Event()
    running: set[int] = set()

    async def work_or_wait(payload: int) -> int:
        if payload > 100:
            running.add(payload)
            worker._executor.able.clear()
            await release.wait()
        return payload

    source = FakeSource()
    source.waits = False
    source.jobs = [job(number) for number in range(1, 103)]
    async with working(source, work_or_wait, concurrency=2, prefetch=None) as worker:
        await until(lambda: len(running) == 2 and len(source.settled) == 100)
        await asyncio.sleep(0.3)  # longer than the pause after an empty claim
        claims = len(source.claims)
        worker._prefetch.reset()
        worker._executor.able.set()
        await asyncio.sleep(0.3)
        assert len(source.claims) == claims
        source.jobs = [job(103)]
        release.set()
        await until(lambda: len(source.settled) >= 102)
        worker._executor.able.set()
        await until(lambda: len(source.settled) == 103)


@pytest.mark.anyio
async def test_outcomes_that_come_thick_are_gathered_for_a_moment() -> None:
    source = FakeSource()
    source.jobs = [job(number) for number in range(1, 301)]
    async with working(source, concurrency=20):
        await until(lambda: len(source.settled) == 300)
        source.jobs = [job(301)]
        await until(lambda: len(source.settled) == 301)
    assert source.settled == [done(number) for number in range(1, 302)]
    assert sum(len(delivery) < 8 for delivery in source.deliveries) <= 3


@pytest.mark.anyio
async def test_heartbeats_go_out_at_a_third_of_the_lease_and_sooner_again_when_one_was_missed() -> (
    None
):
    source = FakeSource(lease_seconds=3.0)
    source.jobs = [job(1), job(2)]
    source.heartbeat_errors = [AWAY]
    release = asyncio.Event()

    async def wait(payload: int) -> int:
        await release.wait()
        return payload

    now = asyncio.get_running_loop().time
    async with working(source, wait):
        await until(lambda: source.jobs == [])
        claimed = now()
        await until(lambda: len(source.heartbeats) == 1)
        missed = now()
        await until(lambda: len(source.heartbeats) == 2)
        heard = now()
        release.set()
        await until(lambda: len(source.settled) == 2)
    assert source.heartbeats == [[(1, 1), (2, 1)]] * 2
    assert missed - claimed > 0.9
    assert heard - missed < 0.9


@pytest.mark.anyio
async def test_a_lost_job_is_cancelled_and_its_outcome_is_not_reported() -> None:
    cancelled: list[int] = []

    async def wait(payload: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(payload)
        return payload

    source = FakeSource(lease_seconds=0.3)
    source.jobs = [job(1), job(2), job(3)]
    source.lost = {1, 3}  # the third is still waiting for a slot
    async with working(source, wait, concurrency=2, prefetch=1):
        await until(lambda: cancelled == [1])
        await until(lambda: source.heartbeats[-1] == [(2, 1)])
    assert {type(one) for one in source.settled} == {Returned}
    # Of the lost ones it says that they have ended.
    assert sorted(one.job_id for one in source.settled) == [1, 2, 3]


@pytest.mark.anyio
async def test_a_new_attempt_at_a_job_in_hand_ends_the_earlier_one() -> None:
    attempts: list[str] = []

    async def wait(payload: int, job: Any) -> int:
        if job.attempt == 2:
            return payload
        try:
            await asyncio.sleep(60)
        finally:
            attempts.append(f"{job.attempt} cancelled")
        raise AssertionError

    source = FakeSource()
    source.jobs = [job(7)]
    async with working(source, wait):
        await until(lambda: source.jobs == [] and len(source.claims) == 2)
        source.jobs = [job(7, attempt=2)]
        await until(lambda: len(source.settled) == 2)
        assert attempts == ["1 cancelled"]
    assert done(7, attempt=2) in source.settled
    assert Returned(job_id=7, attempt=1, begun=True) in source.settled


@pytest.mark.anyio
async def test_jobs_of_a_claim_that_was_cut_short_by_the_stop_are_given_back() -> None:
    source = FakeSource()
    async with working(source):
        await until(lambda: len(source.claims) == 1)
        [(_, claim_id)] = source.claims
        source.given[claim_id] = [job(5)]  # the answer that the worker does not wait for
    assert source.settled == [Returned(job_id=5, attempt=1, begun=False)]


@pytest.mark.anyio
async def test_of_a_claim_as_many_jobs_begin_as_there_are_slots_free() -> None:
    source = FakeSource()
    source.jobs = [job(1), job(2, started=False), job(3, started=False)]
    release = asyncio.Event()

    async def wait(payload: int) -> int:
        await release.wait()
        return payload

    async with working(source, wait, concurrency=1, prefetch=3):
        await until(lambda: len(source.claims) == 2)
        assert source.begins == [1, 0]
        release.set()
        await until(lambda: len(source.settled) == 3)


@pytest.mark.anyio
async def test_the_begin_of_a_prefetched_job_is_reported_at_once_where_its_time_starts_then() -> (
    None
):
    source = FakeSource()
    source.jobs = [job(1), job(2, started=False, timeout_seconds=60)]
    release = asyncio.Event()
    second = asyncio.Event()

    async def wait(payload: int) -> int:
        await (release if payload == 1 else second).wait()
        return payload

    async with working(source, wait, concurrency=1, prefetch=1):
        await until(lambda: not source.jobs)
        assert source.begun == []
        release.set()
        await until(lambda: source.begun == [[(2, 1)]])
        second.set()
        await until(lambda: len(source.settled) == 2)


@pytest.mark.anyio
async def test_that_a_job_began_is_told_again_until_it_is_heard() -> None:
    source = FakeSource()
    source.jobs = [job(1, started=False, timeout_seconds=60)]
    source.heartbeat_errors = [AWAY, AWAY]
    release = asyncio.Event()

    async def wait(payload: int) -> int:
        await release.wait()
        return payload

    async with working(source, wait):
        await until(lambda: len(source.begun) == 3)
        release.set()
        await until(lambda: len(source.settled) == 1)
    assert source.begun == [[(1, 1)]] * 3


@pytest.mark.anyio
async def test_a_job_that_runs_alone_waits_for_the_others_and_nothing_is_claimed_meanwhile() -> (
    None
):
    running: set[int] = set()
    beside: list[set[int]] = []
    release = asyncio.Event()

    async def wait(payload: int) -> int:
        running.add(payload)
        if payload == 9:
            beside.append(set(running))
        await release.wait()
        running.discard(payload)
        return payload

    source = FakeSource()
    source.jobs = [job(1)]
    async with working(source, wait, concurrency=3):
        await until(lambda: running == {1})
        source.jobs = [job(9, started=False, alone=True)]
        await until(lambda: not source.jobs)
        source.jobs = [job(2)]
        assert source.begun == []
        claims = len(source.claims)
        release.set()
        release.clear()
        await until(lambda: 9 in running)
        assert source.begun == [[(9, 1)]]  # before its handler began
        assert len(source.claims) == claims
        release.set()
        await until(lambda: len(source.settled) == 3)
    assert beside == [{9}]


@pytest.mark.anyio
async def test_nothing_is_claimed_before_the_outcome_of_a_job_that_ran_alone_is_on_disk() -> None:
    async def done(payload: int) -> int:
        return payload

    source = FakeSource()
    source.settle_gate.clear()
    source.jobs = [job(9, started=False, alone=True)]
    async with working(source, done, concurrency=3):
        await until(lambda: len(source.deliveries) == 1)
        claims = len(source.claims)
        source.jobs = [job(2)]
        await asyncio.sleep(0.05)  # a claim would be made at once
        assert len(source.claims) == claims
        source.settle_gate.set()
        await until(lambda: len(source.settled) == 2)


@pytest.mark.anyio
async def test_a_cancelled_job_is_stopped_at_once_and_its_end_reported_when_its_handler_ends() -> (
    None
):
    let_go = asyncio.Event()
    told = asyncio.Event()

    async def slow_to_end(payload: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.set()
            await let_go.wait()
        return payload

    source = FakeSource(lease_seconds=0.6)
    source.jobs = [job(1)]
    async with working(source, slow_to_end, concurrency=1):
        await until(lambda: len(source.heartbeats) == 1)
        source.cancelled = [(1, 1)]
        await told.wait()
        beats = len(source.heartbeats)
        await until(lambda: len(source.heartbeats) > beats + 1)
        assert source.heartbeats[-1] == [(1, 1)]  # it holds its place
        assert source.settled == []
        let_go.set()
        await until(lambda: len(source.settled) == 1)
    assert source.settled == [Returned(job_id=1, attempt=1, begun=True)]


@pytest.mark.anyio
async def test_a_handler_that_is_told_to_end_before_it_begins_never_begins() -> None:
    def handle(payload: object) -> object:
        raise AssertionError(payload)

    runner = HandlerRunner(
        {"work": Handler(kind="work", function=handle, is_async=False, wants_job=False)}
    )
    job = HandlerJob(1, "ada", "work", 1, b"null")
    runner.prepare(1, job, ignore_progress)
    runner.cancel(1)
    begun: list[int] = []
    ended = await runner.run(1, job, lambda: begun.append(1))
    assert ended.error is not None
    assert b"had not begun" in ended.error
    assert not begun
    runner.close()


@pytest.mark.anyio
async def test_progress_is_reported_while_a_handler_runs_and_the_latest_report_counts() -> None:
    source = FakeSource()
    let_go = asyncio.Event()

    async def handle(_: object, job: JobContext) -> None:
        for page in range(1, 6):
            job.progress(page / 10, f"page {page} of 10")
        await let_go.wait()

    source.jobs = [job(1)]
    async with working(source, handle):
        await until(lambda: bool(source.progress))
        let_go.set()
        await until(lambda: len(source.settled) == 1)
    assert source.progress == [((1, 1), ProgressReport(0.5, "page 5 of 10"))]


@pytest.mark.parametrize("fraction", ["half", None, True, float("nan")])
def test_a_fraction_that_is_no_number_is_refused(fraction: Any) -> None:
    with pytest.raises(ValueError, match="fraction is a number from 0 to 1"):
        JobContext(id=1, user="ada", kind="work", attempt=1).progress(fraction)
