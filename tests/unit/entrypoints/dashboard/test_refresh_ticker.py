"""The beat that open pages share."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.log.audit_log import EventFilter, StoredEvent
from domain.language.moments import EPOCH
from entrypoints.dashboard import refresh_ticker as beats
from entrypoints.dashboard.refresh_ticker import RefreshTicker
from entrypoints.feeds import log_watcher as tails
from entrypoints.feeds.log_watcher import LogWatcher
from tests.support.waiting import until

BEAT_SECONDS = 0.2
SECONDS_MAX = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(beats, "BEAT_SECONDS", BEAT_SECONDS)


class Log:
    """One that grows by `end`, and what is read of it."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.looks = 0
        self.tail = LogWatcher(self._read, self._position)

    async def _position(self) -> int:
        self.looks += 1
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

    async def listen(self, beat: RefreshTicker, position: int) -> None:
        async for end in beat.listen(position):
            self.told.append((time.monotonic(), end))


@asynccontextmanager
async def listening(log: Log, *positions: int) -> AsyncIterator[list[Page]]:
    beat, pages = RefreshTicker(log.tail), [Page() for _ in positions]
    log.tail.start()
    tasks = [
        asyncio.create_task(page.listen(beat, position))
        for page, position in zip(pages, positions, strict=True)
    ]
    await until(lambda: log.looks > 0)
    await asyncio.sleep(0.05)  # until the beat has heard of it
    yield pages
    log.tail.stop()
    async with asyncio.timeout(SECONDS_MAX):
        await asyncio.gather(*tasks)  # they end with the server
    await log.tail.stop_reading()


def test_all_pages_are_told_at_the_same_beat() -> None:
    async def scenario() -> None:
        log = Log(7)
        async with listening(log, *[7] * 50) as pages:
            log.end = 8
            await until(lambda: any(page.told for page in pages))
            await asyncio.sleep(0)  # whoever is told at that beat has its turn
            assert [page.ends for page in pages] == [[8]] * 50

    asyncio.run(scenario())


def test_much_news_is_told_of_once_a_beat() -> None:
    async def scenario() -> None:
        log = Log(7)
        async with listening(log, 7) as [page]:
            began = time.monotonic()
            for _ in range(50):
                log.end += 1
                await asyncio.sleep(0.01)
            # Once more after the last, for what follows the log.
            await until(lambda: page.ends[-2:] == [57, 57])
            assert len(page.told) <= (time.monotonic() - began) / BEAT_SECONDS + 2

    asyncio.run(scenario())


def test_a_page_that_is_behind_is_told_at_once_and_one_that_is_level_is_not() -> None:
    async def scenario() -> None:
        log = Log(7)
        async with listening(log, 6, 7) as [behind, level]:
            await until(lambda: behind.ends == [7])
            log.end = 8
            await until(lambda: bool(level.ends) and len(behind.ends) > 1)
            assert behind.ends[:2] == [7, 8]
            assert level.ends[0] == 8

    asyncio.run(scenario())


def test_without_news_it_strikes_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(beats, "QUIET_BEATS", 5)

    async def scenario() -> None:
        async with listening(Log(7), 7) as [page]:
            began = time.monotonic()
            await until(lambda: len(page.told) >= 4)
            beats_passed = (time.monotonic() - began) / 0.02
            assert len(page.told) <= beats_passed / 5 + 2
            assert set(page.ends) == {7}

    asyncio.run(scenario())
