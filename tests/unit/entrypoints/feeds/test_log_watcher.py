"""The watcher of the log's head: whom it wakes, and when it reads."""

import asyncio
from collections.abc import Awaitable, Callable

from adapters.writer.write_path import BatchWritten
from domain.language.errors import LogUnavailable
from entrypoints.feeds.log_watcher import LogWatcher


class Log:
    def __init__(self) -> None:
        self.position = 10
        self.reads = 0
        self.error: BaseException | None = None
        self.watcher = LogWatcher(self._read, poll_seconds=0.01)

    async def _read(self) -> int:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.position

    def write(self, event_type: str, count: int = 1) -> None:
        """A batch of this process."""
        self.position += count
        events = {(event_type, ""): count}
        self.watcher.batch_written(BatchWritten(self.position, 1, 0.0, events, {}))


def play(story: Callable[[Log], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            log = Log()
            log.watcher.start()
            await log.watcher.read_position()
            await story(log)
            await log.watcher.close()

    asyncio.run(run())


def test_a_batch_of_this_process_is_seen_without_reading() -> None:
    async def story(log: Log) -> None:
        log.watcher.poll_seconds = 60.0
        waiting = asyncio.create_task(log.watcher.head.wait_beyond(10, 5))
        await asyncio.sleep(0.01)
        reads = log.reads
        log.write("JobSubmitted")
        assert await waiting
        assert (log.watcher.head.value, log.reads) == (11, reads)

    play(story)


def test_events_of_other_processes_are_seen_by_the_next_poll() -> None:
    async def story(log: Log) -> None:
        others = log.watcher.subscribe()
        log.write("JobSubmitted")
        assert not await others.wait_beyond(10, 0.1)
        log.position += 1
        assert await others.wait_beyond(10, 5)
        assert others.value == log.position

    play(story)


def test_without_other_servers_nothing_is_read_and_a_noted_position_is_news() -> None:
    async def story(log: Log) -> None:
        log.watcher.has_peers = False
        reads = log.reads
        waiting = asyncio.create_task(log.watcher.subscribe().wait_beyond(10, 5))
        await asyncio.sleep(0.05)
        assert (waiting.done(), log.reads) == (False, reads)
        log.watcher.note_position(11)
        assert await waiting

    play(story)


def test_events_of_others_between_two_batches_of_this_process_are_not_overlooked() -> None:
    async def story(log: Log) -> None:
        others = log.watcher.subscribe()
        log.write("JobSubmitted")
        log.position += 1  # another's
        log.write("JobSubmitted", 2)
        assert await others.wait_beyond(10, 5)
        assert others.value == 12

    play(story)


def test_a_subscriber_is_woken_by_the_types_that_it_asks_for() -> None:
    async def story(log: Log) -> None:
        cancelled = log.watcher.subscribe({"JobCancelled"})
        log.write("JobSubmitted")
        assert not await cancelled.wait_beyond(10, 0.05)
        log.write("JobCancelled")
        assert await cancelled.wait_beyond(10, 5)

    play(story)


def test_nothing_is_read_while_nobody_waits() -> None:
    async def story(log: Log) -> None:
        await log.watcher.head.wait_beyond(10, 0.05)
        await asyncio.sleep(0.05)
        reads = log.reads
        await asyncio.sleep(0.1)
        assert log.reads == reads

    play(story)


def test_no_error_ends_the_polling() -> None:
    async def story(log: Log) -> None:
        waiting = asyncio.create_task(log.watcher.head.wait_beyond(10))
        for error in (LogUnavailable("away"), ValueError("unforeseen"), asyncio.CancelledError()):
            log.error = error
            reads = log.reads
            while log.reads == reads:  # noqa: ASYNC110 (a counter)
                await asyncio.sleep(0.01)
        log.error = None
        log.position += 1
        assert await waiting

    play(story)


def test_all_who_wait_end_when_the_server_stops() -> None:
    async def story(log: Log) -> None:
        waiting = [asyncio.create_task(log.watcher.head.wait_beyond(10)) for _ in range(3)]
        await asyncio.sleep(0.01)
        log.watcher.stop()
        assert await asyncio.gather(*waiting) == [False] * 3
        assert not await log.watcher.head.wait_beyond(10)

    play(story)
