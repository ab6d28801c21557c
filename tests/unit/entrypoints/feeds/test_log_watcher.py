import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from adapters.log.audit_log import EventFilter, StoredEvent
from entrypoints.feeds import log_watcher as tail
from entrypoints.feeds.log_watcher import CATCHING_UP_AT_ONCE, EVENTS_PER_PAGE, LogWatcher
from entrypoints.http.stream import EncodedEvents

ANYTHING = EventFilter()
AT = datetime(2026, 1, 31, tzinfo=UTC)


def event(position: int, size: int = 10) -> StoredEvent:
    return StoredEvent(position, "JobStarted", 1, None, None, AT, b"x" * size, b"")


class Log:
    """Events of a size. Counts who reads at once."""

    def __init__(self, events: int, size: int = 10) -> None:
        self.events = [event(number + 1, size) for number in range(events)]
        self.reading = self.most = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def read(self, _: EventFilter, after: int, limit: int) -> Sequence[StoredEvent]:
        self.reading += 1
        self.most = max(self.most, self.reading)
        await self.goes_on.wait()
        await asyncio.sleep(0)
        self.reading -= 1
        return self.events[after : after + limit]

    async def position(self) -> int:
        return len(self.events)


async def all_of(one: LogWatcher, end: int) -> list[list[int]]:
    """The positions of each page that a listener gets, from the first event on."""
    pages = []
    async for page in one.listen(ANYTHING, 0, 10.0):
        pages.append([found.position for found in page.events])
        if page.position == end:
            break
    return pages


def test_listeners_that_catch_up_read_the_log_a_few_at_a_time() -> None:
    async def story() -> None:
        log = Log(3 * EVENTS_PER_PAGE)
        one = LogWatcher(log.read, log.position)
        heard = await asyncio.gather(*(all_of(one, len(log.events)) for _ in range(30)))
        for pages in heard:
            assert [one for page in pages for one in page] == list(range(1, len(log.events) + 1))
        assert log.most <= CATCHING_UP_AT_ONCE + 1  # the one who follows the log for all
        one.stop()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_pages_and_what_is_kept_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "BYTES_PER_PAGE", 1000)
    monkeypatch.setattr(tail, "BYTES_KEPT_MAX", 2000)

    async def story() -> None:
        log = Log(20, 300)
        one = LogWatcher(log.read, log.position)
        pages = await all_of(one, 20)
        assert [one for page in pages for one in page] == list(range(1, 21))
        assert max(map(len, pages)) == 3
        log.events += [event(number, 300) for number in range(21, 41)]
        assert [at for page in await all_of(one, 40) for at in page] == list(range(1, 41))
        assert len(one._ring) <= 2000 // 300
        one.stop()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_an_event_is_encoded_once_for_all_who_listen() -> None:
    encoded = EncodedEvents(bytes_max=1000)
    first = encoded.frame(event(1))
    assert first.startswith(b"id: 1\ndata: {")
    assert encoded.frame(event(1)) is first
    for position in range(2, 100):
        encoded.frame(event(position))
    assert encoded.frame(event(1)) == first
    assert encoded.frame(event(1)) is not first
    assert sum(map(len, encoded._encoded.values())) <= 1000
