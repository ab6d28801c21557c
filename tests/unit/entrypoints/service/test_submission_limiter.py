"""Reports that the log cannot take, and those that are unsent when the server stops."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from adapters.writer.write_path import BatchWritten
from domain.decisions.answers import Answer, RefusalsRecorded
from domain.decisions.batch import Outcome
from domain.language.commands import ReportRefusals, RetryJob, SubmitJob
from domain.language.errors import FairlogError, LogUnavailable, QueueFull, RateLimited
from domain.language.events import RateLimitDecided, Scope
from domain.language.identifiers import UserId
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.service.submission_limiter import REPORTS_PER_ROUND_MAX, SubmissionLimiter
from tests.support.clock import ManualClock
from tests.support.given import NOW
from tests.support.stories import submit

USERS = [UserId(f"user-{number}") for number in range(2 * REPORTS_PER_ROUND_MAX + 10)]


class Log:
    """It refuses every submission; reports reach it, or meet `error`."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.asked = 0  # submissions
        self.error: FairlogError | None = None
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def execute(self, command: SubmitJob | RetryJob | ReportRefusals) -> Answer:
        assert not isinstance(command, RetryJob)
        if isinstance(command, SubmitJob):
            self.asked += 1
            decision = RateLimitDecided(
                user_id=command.user_id,
                scope=Scope.USER,
                allowed=False,
                used=0,
                limit=0,
                window_start=NOW,
                window_seconds=60,
            )
            raise RateLimited(decision, NOW)
        await self.is_open.wait()
        if self.error is not None:
            raise self.error
        self.counts.append(command.count)
        return RefusalsRecorded(command.count)

    async def execute_each(self, commands: Sequence[SubmitJob]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for command in commands:
            try:
                outcomes.append(await self.execute(command))
            except FairlogError as error:
                outcomes.append(error)
        return outcomes


async def nobody_changed_a_limit() -> int:
    return 0


def play(story: Callable[[SubmissionLimiter, Log], Awaitable[None]]) -> None:
    """Refuse every user once by the log and once from the cache, then play the story."""

    async def told() -> None:
        log = Log()
        watcher = LogWatcher(nobody_changed_a_limit)
        limiter = SubmissionLimiter(
            log.execute, watcher, nobody_changed_a_limit, ManualClock(), log.execute_each
        )
        for user in USERS * 2:
            with pytest.raises(RateLimited):
                await limiter.submit(user, submit(user))
        await story(limiter, log)

    asyncio.run(told())


def test_submissions_of_one_call_are_refused_by_the_log_once_and_from_then_on_from_the_cache() -> (
    None
):
    async def story(limiter: SubmissionLimiter, log: Log) -> None:
        ada, before = UserId("ada"), log.asked
        for _ in range(2):
            outcomes = await limiter.submit_each([submit(ada), submit(USERS[0]), submit(ada)])
            assert all(isinstance(one, RateLimited) for one in outcomes)
            assert [getattr(one, "user_id", None) for one in outcomes] == [ada, USERS[0], ada]
        assert log.asked == before + 2  # of the first call, which knew nothing of ada
        await limiter.report_all()
        assert sum(log.counts) == len(USERS) + 1 + 3

    play(story)


def test_a_round_is_bounded_and_the_last_one_takes_all() -> None:
    async def story(limiter: SubmissionLimiter, log: Log) -> None:
        await limiter.report()
        assert len(log.counts) == REPORTS_PER_ROUND_MAX
        await limiter.report_all()
        assert sum(log.counts) == len(USERS)
        await limiter.report_all()
        assert sum(log.counts) == len(USERS)

    play(story)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (QueueFull("full"), 0),
        (LogUnavailable("away", nothing_was_recorded=True), 0),
        (LogUnavailable("in doubt"), REPORTS_PER_ROUND_MAX),  # counted twice would be untrue
    ],
)
def test_what_was_surely_not_recorded_is_reported_later(error: FairlogError, lost: int) -> None:
    async def story(limiter: SubmissionLimiter, log: Log) -> None:
        log.error = error
        with pytest.raises(type(error)):
            await limiter.report()
        log.error = None
        await limiter.report_all()
        assert sum(log.counts) == len(USERS) - lost

    play(story)


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_a_round_that_is_cancelled_is_neither_lost_nor_counted_twice(turns: int) -> None:
    async def story(limiter: SubmissionLimiter, log: Log) -> None:
        log.is_open.clear()
        chore = asyncio.create_task(limiter.report())
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        chore.cancel()
        await asyncio.gather(chore, return_exceptions=True)
        asyncio.get_running_loop().call_soon(log.is_open.set)
        await limiter.report_all()
        assert sum(log.counts) == len(USERS)

    play(story)


def test_with_the_database_away_the_last_round_ends_all_the_same() -> None:
    async def story(limiter: SubmissionLimiter, log: Log) -> None:
        log.error = LogUnavailable("away", nothing_was_recorded=True)
        with pytest.raises(LogUnavailable):
            await limiter.report_all()

    play(story)


def test_a_limit_changed_by_another_process_clears_the_cache_while_a_report_is_under_way() -> None:
    head = 1
    latest = 0

    async def position() -> int:
        return head

    async def latest_limit_change() -> int:
        return latest

    async def story() -> None:
        nonlocal head, latest
        log = Log()
        limiter = SubmissionLimiter(
            log.execute,
            LogWatcher(position),
            latest_limit_change,
            ManualClock(),
            log.execute_each,
        )
        for _ in range(2):
            with pytest.raises(RateLimited):
                await limiter.submit(USERS[0], submit(USERS[0]))
        await limiter.watch_limits()
        assert limiter.refuse(USERS[0]) is not None
        log.is_open.clear()
        report = asyncio.create_task(limiter.report())
        head = latest = 7
        await limiter.watch_limits()
        assert limiter.refuse(USERS[0]) is None
        log.is_open.set()
        await report

    asyncio.run(story())


@pytest.mark.parametrize("name", ["LimitChanged", "LossAccepted"])
def test_a_window_that_may_have_room_again_is_asked_for_in_the_log(name: str) -> None:
    async def story(limiter: SubmissionLimiter, _: Log) -> None:
        assert limiter.refuse(USERS[0]) is not None
        limiter.batch_written(BatchWritten(9, 1, 0.0, {(name, ""): 1}, {}))
        assert limiter.refuse(USERS[0]) is None

    play(story)
