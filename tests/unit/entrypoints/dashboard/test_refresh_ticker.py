"""The ticks that open pages share."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from entrypoints.dashboard.refresh_ticker import RefreshTicker
from entrypoints.feeds.log_watcher import LogWatcher
from tests.support.waiting import until

TICK_SECONDS = 0.2
SECONDS_MAX = 20.0


class Log:
    """It grows by `end`."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.watcher = LogWatcher(self._position, poll_seconds=0.01)

    async def _position(self) -> int:
        return self.end


class Page:
    """Notes when it is to ask anew, and how long the log then is."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, int]] = []

    @property
    def ends(self) -> list[int]:
        return [end for _, end in self.ticks]

    async def listen(self, ticker: RefreshTicker, position: int) -> None:
        async for end in ticker.listen(position):
            self.ticks.append((time.monotonic(), end))


@asynccontextmanager
async def listening(
    log: Log, *positions: int, tick_seconds: float = TICK_SECONDS, quiet_per_tick: int = 10
) -> AsyncIterator[list[Page]]:
    ticker = RefreshTicker(log.watcher, tick_seconds=tick_seconds, quiet_per_tick=quiet_per_tick)
    pages = [Page() for _ in positions]
    await log.watcher.read_position()  # as the route does
    tasks = [
        asyncio.create_task(page.listen(ticker, position))
        for page, position in zip(pages, positions, strict=True)
    ]
    await asyncio.sleep(0.05)  # until the ticker watches the log
    yield pages
    log.watcher.stop()
    async with asyncio.timeout(SECONDS_MAX):
        await asyncio.gather(*tasks)  # they end with the server
    await log.watcher.close()


@pytest.mark.anyio
async def test_all_pages_get_the_same_tick() -> None:
    log = Log(7)
    async with listening(log, *[7] * 50) as pages:
        log.end = 8
        await until(lambda: any(page.ticks for page in pages))
        await asyncio.sleep(0)  # the other pages have their turn
        assert [page.ends for page in pages] == [[8]] * 50


@pytest.mark.anyio
async def test_many_events_make_one_tick_per_span() -> None:
    log = Log(7)
    async with listening(log, 7) as [page]:
        began = time.monotonic()
        for _ in range(50):
            log.end += 1
            await asyncio.sleep(0.01)
        # Once more after the last, for what follows the log.
        await until(lambda: page.ends[-2:] == [57, 57])
        assert len(page.ticks) <= (time.monotonic() - began) / TICK_SECONDS + 2


@pytest.mark.anyio
async def test_a_page_that_is_behind_gets_a_tick_at_once_and_one_that_is_level_does_not() -> None:
    log = Log(7)
    async with listening(log, 6, 7) as [behind, level]:
        await until(lambda: behind.ends == [7])
        log.end = 8
        await until(lambda: bool(level.ends) and len(behind.ends) > 1)
        assert behind.ends[:2] == [7, 8]
        assert level.ends[0] == 8


@pytest.mark.anyio
async def test_without_events_it_ticks_seldom() -> None:
    async with listening(Log(7), 7, tick_seconds=0.02, quiet_per_tick=5) as [page]:
        began = time.monotonic()
        await until(lambda: len(page.ticks) >= 4)
        spans_passed = (time.monotonic() - began) / 0.02
        assert len(page.ticks) <= spans_passed / 5 + 2
        assert set(page.ends) == {7}
