import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from adapters.log.audit_log import EventFilter, StoredEvent
from entrypoints.feeds.event_feed import CATCHING_UP_AT_ONCE, EVENTS_PER_PAGE, EventFeed
from entrypoints.feeds.log_watcher import LogWatcher
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


async def pages_of(feed: EventFeed, end: int) -> list[list[int]]:
    """The positions of each page that a listener gets, from the first event on."""
    pages = []
    async for page in feed.listen(ANYTHING, 0, 10.0):
        pages.append([found.position for found in page.events])
        if page.position == end:
            break
    return pages


def test_listeners_that_catch_up_read_the_log_a_few_at_a_time() -> None:
    async def story() -> None:
        log = Log(3 * EVENTS_PER_PAGE)
        watcher = LogWatcher(log.position)
        feed = EventFeed(watcher, log.read)
        received = await asyncio.gather(*(pages_of(feed, len(log.events)) for _ in range(30)))
        for pages in received:
            assert [one for page in pages for one in page] == list(range(1, len(log.events) + 1))
        assert log.most <= CATCHING_UP_AT_ONCE + 1  # the loop that reads for all
        await watcher.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_pages_and_events_in_memory_are_bounded_in_bytes() -> None:
    async def story() -> None:
        log = Log(20, 300)
        watcher = LogWatcher(log.position)
        feed = EventFeed(watcher, log.read, bytes_per_page=1000, bytes_kept_max=2000)
        pages = await pages_of(feed, 20)
        assert [one for page in pages for one in page] == list(range(1, 21))
        assert max(map(len, pages)) == 3
        log.events += [event(number, 300) for number in range(21, 41)]
        assert [at for page in await pages_of(feed, 40) for at in page] == list(range(1, 41))
        kept = feed._recent.beyond(34, 100)
        assert feed._recent.beyond(33, 100) == []
        assert [event.position for event in kept] == list(range(35, 41))
        assert len(kept) == 2000 // 300
        await watcher.close()

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
