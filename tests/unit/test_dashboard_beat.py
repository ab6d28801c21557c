"""The beat that open pages share."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.audit_log import EventFilter, StoredEvent
from domain.moments import EPOCH
from entrypoints import tail as tails
from entrypoints.dashboard import beat as beats
from entrypoints.dashboard.beat import Beat
from entrypoints.tail import Tail

BEAT_SECONDS = 0.2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(beats, "BEAT_SECONDS", BEAT_SECONDS)


class Log:
    """One that grows by `end`, and what is read of it."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.tail = Tail(self._read, self._position)

    async def _position(self) -> int:
        return self.end

    async def _read(self, _: EventFilter, after: int, limit: int) -> list[StoredEvent]:
        return [event(position) for position in range(after + 1, self.end + 1)[:limit]]


def event(position: int) -> StoredEvent:
    return StoredEvent(position, "JobSubmitted", 1, None, None, EPOCH, b"{}", b"")


class Page:
    """Notes when it is told to look again, and how far the log then is."""

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []

    @property
    def ends(self) -> list[int]:
        return [end for _, end in self.told]

    async def listen(self, beat: Beat, position: int) -> None:
        async for end in beat.listen(position):
            self.told.append((time.monotonic(), end))


@asynccontextmanager
async def listening(log: Log, *positions: int) -> AsyncIterator[list[Page]]:
    beat, pages = Beat(log.tail), [Page() for _ in positions]
    log.tail.start()
    tasks = [
        asyncio.create_task(page.listen(beat, position))
        for page, position in zip(pages, positions, strict=True)
    ]
    await asyncio.sleep(0.05)
    yield pages
    log.tail.stop()
    async with asyncio.timeout(1):
        await asyncio.gather(*tasks)  # they end with the server
    await log.tail.stop_reading()


def test_all_pages_are_told_at_the_same_moment() -> None:
    async def scenario() -> None:
        log = Log(7)
        async with listening(log, *[7] * 50) as pages:
            log.end = 8
            await asyncio.sleep(0.1)
            moments = [at for page in pages for at, _ in page.told]
            assert [page.ends for page in pages] == [[8]] * 50
            assert max(moments) - min(moments) < BEAT_SECONDS / 2

    asyncio.run(scenario())


def test_much_news_is_told_of_once_a_beat() -> None:
    async def scenario() -> None:
        log = Log(7)
        async with listening(log, 7) as [page]:
            for _ in range(50):
                log.end += 1
                await asyncio.sleep(0.01)
            await asyncio.sleep(2.5 * BEAT_SECONDS)
            assert len(page.told) <= 6
            assert page.ends[-2:] == [57, 57]  # once more, for what follows the log

    asyncio.run(scenario())


def test_a_page_that_is_behind_is_told_at_once_and_one_that_is_level_is_not() -> None:
    async def scenario() -> None:
        async with listening(Log(7), 6, 7) as [behind, level]:
            assert behind.ends == [7]
            assert level.ends == []

    asyncio.run(scenario())


def test_without_news_it_strikes_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(beats, "QUIET_BEATS", 5)

    async def scenario() -> None:
        async with listening(Log(7), 7) as [page]:
            await asyncio.sleep(0.5)
            assert 2 <= len(page.told) <= 7
            assert set(page.ends) == {7}

    asyncio.run(scenario())
