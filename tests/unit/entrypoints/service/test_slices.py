import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from domain.decisions.answers import RefusalsRecorded
from domain.decisions.batch import Outcome
from domain.language.commands import Command, CompleteJob
from domain.language.errors import InvalidInput, LogUnavailable, QueueFull
from entrypoints.service import slices
from entrypoints.service.slices import SLICE, SLICES_AT_ONCE, SLICES_PER_CALL, SMALL_MAX, Slices
from tests.support.stories import complete

MANY: list[Command | Exception] = [complete(number) for number in range(4 * SLICE)]


def answer(command: Command | Exception) -> Outcome:
    """Return an outcome by which its command is known."""
    assert isinstance(command, CompleteJob)
    return RefusalsRecorded(command.job_id)


class Log:
    """Counts who asks at once. `answers` holds them up."""

    def __init__(self) -> None:
        self.asking = self.most = self.asked = 0
        self.answers = asyncio.Event()

    async def ask(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        self.asked += len(commands)
        self.asking += len(commands)
        self.most = max(self.most, self.asking)
        await self.answers.wait()
        self.asking -= len(commands)
        return [answer(command) for command in commands]


def run(story: Callable[[Log], Awaitable[None]]) -> None:
    async def told() -> None:
        async with asyncio.timeout(20):
            await story(Log())

    asyncio.run(told())


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_calls_of_very_many_commands_ask_for_some_of_them_at_once() -> None:
    async def story(log: Log) -> None:
        together = Slices()
        calls = [asyncio.create_task(together.run(MANY, log.ask)) for _ in range(20)]
        await settled()
        assert log.asking == SLICES_AT_ONCE * SLICE
        log.answers.set()
        assert await asyncio.gather(*calls) == [list(map(answer, MANY))] * 20
        assert log.most == SLICES_AT_ONCE * SLICE

    run(story)


def test_a_small_call_waits_for_no_large_one() -> None:
    async def story(log: Log) -> None:
        together = Slices()
        large = [asyncio.create_task(together.run(MANY, log.ask)) for _ in range(20)]
        await settled()
        before = log.asked
        small = asyncio.create_task(together.run(MANY[:SMALL_MAX], log.ask))
        await settled()
        assert log.asked == before + SMALL_MAX
        log.answers.set()
        await asyncio.gather(small, *large)

    run(story)


def test_where_the_log_does_not_answer_the_rest_is_not_asked_for() -> None:
    async def away(commands: Sequence[Command]) -> Sequence[Outcome]:
        await asyncio.sleep(0)
        return [LogUnavailable("Away.") for _ in commands]

    async def story(_: Log) -> None:
        wrong = InvalidInput("Wrong.")
        outcomes = await Slices().run([*MANY[:-1], wrong], away)
        assert len(outcomes) == len(MANY)
        for outcome in outcomes[:-1]:
            assert isinstance(outcome, LogUnavailable)
        recorded = [getattr(one, "nothing_was_recorded", None) for one in outcomes[:-1]]
        asked = SLICES_PER_CALL * SLICE  # they were under way together
        assert recorded == [False] * asked + [True] * (len(MANY) - asked - 1)
        assert isinstance(outcomes[-1], InvalidInput)

    run(story)


def test_a_call_whose_turn_does_not_come_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "WAIT_SECONDS_MAX", 0.01)

    async def story(log: Log) -> None:
        together = Slices()
        calls = [asyncio.create_task(together.run(MANY, log.ask)) for _ in range(SLICES_AT_ONCE)]
        await settled()
        outcomes = await together.run(MANY, log.ask)
        assert all(isinstance(one, QueueFull) for one in outcomes)
        log.answers.set()
        await asyncio.gather(*calls)

    run(story)
