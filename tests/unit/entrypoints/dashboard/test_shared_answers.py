"""Answers that all open dashboards share."""

import asyncio

import pytest

from domain.language.errors import LogUnavailable
from entrypoints.dashboard import shared_answers
from entrypoints.dashboard.shared_answers import Dated, SharedAnswers


class Ticks:
    """A ticker that the test moves."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        return self.count


class Maker:
    """Counts how often it is asked; its answers are at the positions given, then at the last."""

    def __init__(self, *positions: int) -> None:
        self.asked = 0
        self._positions = positions

    async def __call__(self) -> Dated[str]:
        position = self._positions[min(self.asked, len(self._positions) - 1)]
        self.asked += 1
        await asyncio.sleep(0.01)
        return Dated(position, f"at {position}")


@pytest.fixture(autouse=True)
def soon_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_answers, "SHARED_SECONDS", 0.2)
    monkeypatch.setattr(shared_answers, "APART_SECONDS", 0.05)


@pytest.mark.anyio
async def test_many_who_ask_at_once_are_answered_by_one() -> None:
    answers, make = SharedAnswers[str](Ticks()), Maker(1)
    got = await asyncio.gather(*(answers.get("/", 0, make) for _ in range(50)))
    assert got == ["at 1"] * 50
    assert make.asked == 1


@pytest.mark.anyio
async def test_who_opens_a_page_a_little_later_gets_the_same_answer_and_then_another() -> None:
    answers, make = SharedAnswers[str](Ticks()), Maker(1, 2)
    assert await answers.get("/", 0, make) == "at 1"
    await asyncio.sleep(0.06)
    assert await answers.get("/", 0, make) == "at 1"
    await asyncio.sleep(0.2)
    assert await answers.get("/", 0, make) == "at 2"


@pytest.mark.anyio
async def test_open_pages_share_an_answer_from_tick_to_tick_however_long_they_take() -> None:
    ticks, make = Ticks(), Maker(1, 2)
    answers = SharedAnswers[str](ticks)
    assert await answers.get("/", 1, make) == "at 1"
    await asyncio.sleep(0.3)
    assert await answers.get("/", 1, make) == "at 1"
    ticks.count += 1
    assert await answers.get("/", 1, make) == "at 2"


@pytest.mark.anyio
async def test_nobody_gets_an_answer_from_before_what_they_have_seen() -> None:
    answers, make = SharedAnswers[str](Ticks()), Maker(1, 1, 5)
    assert await answers.get("/", 0, make) == "at 1"
    assert await answers.get("/", 5, make) == "at 5"
    assert make.asked == 3


@pytest.mark.anyio
async def test_a_position_that_never_comes_is_not_waited_for_for_ever() -> None:
    assert await SharedAnswers[str](Ticks()).get("/", 10**15, Maker(1)) == "at 1"


@pytest.mark.anyio
async def test_a_failure_is_told_and_not_kept() -> None:
    async def fail() -> Dated[str]:
        raise LogUnavailable("away")

    answers = SharedAnswers[str](Ticks())
    with pytest.raises(LogUnavailable):
        await answers.get("/", 0, fail)
    assert await answers.get("/", 0, Maker(1)) == "at 1"


@pytest.mark.anyio
async def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_answers, "ANSWERS_MAX", 3)
    answers = SharedAnswers[str](Ticks())
    for number in range(10):
        await answers.get(f"/{number}", 0, Maker(1))
    assert len(answers._entries) == 3


@pytest.mark.anyio
async def test_answers_are_bounded_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_answers, "CHARACTERS_MAX", 20)
    answers = SharedAnswers[str](Ticks())
    makers = {key: Maker(1) for key in "abcdef"}
    for key, make in makers.items():  # each answer has four characters
        assert await answers.get(key, 0, make) == "at 1"
    assert sum(entry.size for entry in answers._entries.values()) == 20
    assert await answers.get("f", 0, makers["f"]) == "at 1"
    assert makers["f"].asked == 1
