import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from typing import Any

import pytest

from adapters.writer.write_path import BatchWritten
from domain.decisions.answers import Claimed
from domain.language.commands import ClaimJobs
from domain.language.errors import LogUnavailable
from domain.language.identifiers import Kind, WorkerId
from entrypoints.feeds import work_signal
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.feeds.work_signal import Work, WorkSignal
from entrypoints.service.claiming import Claiming
from entrypoints.service.worker_polls import WorkerPolls
from tests.support.stories import ECHO, SLEEP

WAIT_SECONDS = 30.0


class Workshop:
    """Claims that wait, and the work there is for them: `jobs` by kind, as a writer has it."""

    def __init__(self) -> None:
        self.jobs: dict[Kind, int] = {}
        self.asked: list[str] = []  # names of the workers, in order
        self.looked_at: list[Collection[Kind | None]] = []
        self.position = 0
        self.written_elsewhere = 0  # events of another process
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.watcher = LogWatcher(self._position)
        self.signal = WorkSignal(self.watcher, self._work)
        self.claiming = Claiming(self._ask, self.signal, WorkerPolls())

    async def _position(self) -> int:
        return self.position

    async def _work(self, kinds: Collection[Kind | None]) -> Work:
        self.looked_at.append(kinds)
        return {
            kind: sum(self.jobs.values()) if kind is None else self.jobs.get(kind, 0)
            for kind in kinds
        }

    async def _ask(self, command: ClaimJobs) -> Claimed:
        self.asked.append(command.worker)
        kinds = list(self.jobs) if command.kinds is None else command.kinds
        taken: list[Any] = []
        for kind in kinds:
            while self.jobs.get(kind) and len(taken) < command.max_jobs:
                self.jobs[kind] -= 1
                taken.append(kind)
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return Claimed(taken)

    def claim(self, name: str, *kinds: Kind, jobs_max: int = 1) -> "asyncio.Task[Claimed]":
        command = ClaimJobs(worker=WorkerId(name), max_jobs=jobs_max, kinds=kinds or None)
        return asyncio.create_task(self.claiming.claim(command, WAIT_SECONDS))

    def write(self, **jobs: int) -> None:
        """A batch of this process brings so many jobs."""
        self.add(**jobs)
        self.position += 1
        events = {("JobSubmitted", ""): 1}
        new_work = {Kind(kind): number for kind, number in jobs.items()}
        self.watcher.batch_written(BatchWritten(self.position, 1, 0.0, events, {}, new_work))

    def add(self, **jobs: int) -> None:
        for kind, more in jobs.items():
            self.jobs[Kind(kind)] = self.jobs.get(Kind(kind), 0) + more


def run(story: Callable[[Workshop], Awaitable[None]]) -> None:
    async def play() -> None:
        async with asyncio.timeout(20), AsyncExitStack() as stack:
            workshop = Workshop()
            workshop.watcher.start()
            stack.push_async_callback(workshop.watcher.close)
            await story(workshop)

    asyncio.run(play())


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_only_claims_of_a_kind_that_has_work_are_woken() -> None:
    async def story(workshop: Workshop) -> None:
        others = [workshop.claim(f"other-{number}", SLEEP) for number in range(50)]
        mine = workshop.claim("mine", ECHO)
        await settled()
        workshop.asked.clear()
        workshop.write(echo=1)
        assert len((await mine).jobs) == 1
        await settled()
        assert workshop.asked == ["mine"]
        assert not any(other.done() for other in others)

    run(story)


def test_as_many_are_woken_as_there_is_work_for_and_the_first_first() -> None:
    async def story(workshop: Workshop) -> None:
        claims = []
        for number in range(10):
            claims.append(workshop.claim(f"w{number}", *([ECHO] if number % 2 else [])))
            await settled()
        workshop.asked.clear()
        workshop.write(echo=3)
        await asyncio.gather(*claims[:3])
        await settled()
        assert workshop.asked == ["w0", "w1", "w2"]

    run(story)


def test_a_claim_for_many_is_woken_alone() -> None:
    async def story(workshop: Workshop) -> None:
        claims = [workshop.claim(f"w{number}", ECHO, jobs_max=5) for number in range(3)]
        await settled()
        workshop.asked.clear()
        workshop.write(echo=5)
        assert len((await claims[0]).jobs) == 5
        await settled()
        assert workshop.asked == ["w0"]

    run(story)


def test_whoever_was_woken_and_goes_passes_it_on() -> None:
    async def story(workshop: Workshop) -> None:
        first, second = workshop.claim("first", ECHO), workshop.claim("second", ECHO)
        await settled()
        workshop.signal._wake(ECHO, 1)
        first.cancel()
        await settled()
        workshop.add(echo=1)
        third = workshop.claim("third", SLEEP)
        assert len((await second).jobs) == 1
        third.cancel()

    run(story)


def test_whoever_was_woken_and_gets_an_error_passes_it_on() -> None:
    async def story(workshop: Workshop) -> None:
        first, second = workshop.claim("first", ECHO), workshop.claim("second", ECHO)
        await settled()
        workshop.answers.clear()
        workshop.write(echo=0)
        workshop.signal._wake(ECHO, 1)
        await settled()
        workshop.error = LogUnavailable("Away.")
        workshop.answers.set()
        await asyncio.wait([first])
        assert isinstance(first.exception(), LogUnavailable)
        workshop.error = None
        workshop.add(echo=1)
        assert len((await second).jobs) == 1

    run(story)


def test_news_for_a_claim_that_is_served_already_are_passed_on() -> None:
    """The job that it has was there before; the new one is for whoever waits."""

    async def story(workshop: Workshop) -> None:
        second = workshop.claim("second", ECHO)
        await settled()
        workshop.answers.clear()
        workshop.add(echo=1)
        first = workshop.claim("first", ECHO)  # takes it, and has no answer yet
        await settled()
        workshop.write(echo=1)
        workshop.answers.set()
        assert len((await first).jobs) == 1
        assert len((await second).jobs) == 1

    run(story)


def test_work_of_another_process_is_found_and_who_is_served_wakes_the_next() -> None:
    async def story(workshop: Workshop) -> None:
        claims = [workshop.claim(f"w{number}", ECHO) for number in range(40)]
        others = [workshop.claim(f"other-{number}", SLEEP) for number in range(5)]
        await settled()
        workshop.asked.clear()
        workshop.add(echo=40)
        workshop.position += 40
        served = await asyncio.gather(*claims)
        assert all(len(one.jobs) == 1 for one in served)
        assert not {name for name in workshop.asked if name.startswith("other")}
        for other in others:
            other.cancel()

    run(story)


def test_a_batch_of_ours_hides_no_work_of_another_process_before_it() -> None:
    async def story(workshop: Workshop) -> None:
        claim = workshop.claim("w", ECHO)
        await settled()
        workshop.write(sleep=1)
        workshop.add(echo=1)
        workshop.position += 1  # the other's
        workshop.write(sleep=1)
        assert len((await claim).jobs) == 1

    run(story)


def test_work_that_nobody_was_told_of_is_found_all_the_same() -> None:
    async def story(workshop: Workshop) -> None:
        named, any_kind = workshop.claim("named", ECHO), workshop.claim("any")
        await settled()
        workshop.add(echo=2)
        assert len((await named).jobs) == 1
        assert len((await any_kind).jobs) == 1

    run(story)


def test_of_very_many_kinds_each_is_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time, also while there is news all the time."""
    monkeypatch.setattr(work_signal, "KINDS_PER_LOOK_MAX", 3)

    async def story(workshop: Workshop) -> None:
        kinds = [Kind(f"kind-{number}") for number in range(10)]
        others = workshop.claim("others", *kinds)
        last = workshop.claim("last", ECHO)
        await settled()
        workshop.add(echo=1)
        while not last.done():
            workshop.position += 1
            await asyncio.sleep(0.01)
        assert len(last.result().jobs) == 1
        assert max(map(len, workshop.looked_at)) == 3
        assert set(kinds) <= {kind for look in workshop.looked_at for kind in look}
        others.cancel()

    run(story)
