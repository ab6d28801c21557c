"""The head of the log, watched once per process for all who wait for it to move.

Events that this process writes are seen at once, those of other servers within POLL_SECONDS, and
those of commands within two seconds. Nothing is read while nobody waits.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from adapters.supervision import Part
from adapters.writer.write_path import BatchWritten
from entrypoints.feeds.on_demand import OnDemandLoop

POLL_SECONDS: Final = 0.25  # between two queries for events of other processes

BatchObserver = Callable[[BatchWritten], None]


class RisingNumber:
    """A number that never falls; tasks of one event loop wait for it to rise."""

    def __init__(self) -> None:
        self.value = 0
        self._is_closed = False
        self._changed = asyncio.Event()  # replaced at each change: set for all who hold the old one

    def rise_to(self, value: int) -> None:
        if value > self.value:
            self.value = value
            self._wake()

    def close(self) -> None:
        """Let everybody stop waiting, now and later."""
        self._is_closed = True
        self._wake()

    async def wait_beyond(self, value: int, seconds: float | None = None) -> bool:
        """Return True as soon as the number is greater; False after `seconds`, or when closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.value <= value and not self._is_closed:
                    await self._changed.wait()
        return self.value > value

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Subscription(RisingNumber):
    """The position of the latest event that may concern a subscriber, as far as it is known.

    Waiting for it keeps the log polled.
    """

    def __init__(self, polling: OnDemandLoop, own_types: Collection[str] | None) -> None:
        super().__init__()
        self._polling = polling
        self._own_types = own_types

    def wants(self, batch: BatchWritten) -> bool:
        """Return True if a batch of this process concerns the subscriber."""
        return self._own_types is None or batch.has_any(self._own_types)

    async def wait_beyond(self, value: int, seconds: float | None = None) -> bool:
        with self._polling.needed():
            return await super().wait_beyond(value, seconds)


class LogWatcher:
    """One per process, used on one event loop; only `batch_written` may be called elsewhere.

    `read_position` reads the position of the latest event from the database.
    """

    def __init__(
        self,
        read_position: Callable[[], Awaitable[int]],
        part: Part | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.poll_seconds = poll_seconds
        self._read_position = read_position
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._observers: list[BatchObserver] = []
        self._subscriptions: list[Subscription] = []
        self._numbers: list[RisingNumber] = []
        self._loops: list[OnDemandLoop] = []
        self._others_up_to = 0  # events of others before a batch of this process, not yet reported
        # False while no other server runs, so that only commands write, and the periodic check for
        # due jobs notes the position often enough.
        self.has_peers = True
        self._polling = self.loop(Part("log_news") if part is None else part, self._poll)
        self.head = self.subscribe(own_types=None)

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def subscribe(self, own_types: Collection[str] | None = ()) -> Subscription:
        """Follow the events of other processes, which are reported once per poll, and at once the
        batches of this process that have an event of `own_types`; None: all of them.
        """
        subscription = Subscription(self._polling, own_types)
        self._subscriptions.append(subscription)
        return subscription

    def rising_number(self) -> RisingNumber:
        """Make a number that is closed when the server stops."""
        self._numbers.append(number := RisingNumber())
        return number

    def loop(self, part: Part, run: Callable[[], Awaitable[object]]) -> OnDemandLoop:
        """Make a loop that ends when the server stops."""
        self._loops.append(loop := OnDemandLoop(part, run))
        return loop

    def observe(self, observer: BatchObserver) -> None:
        """Call `observer` on the event loop with each batch that this process writes."""
        self._observers.append(observer)

    def start(self) -> None:
        """Call it on the event loop on which others will wait."""
        self._event_loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Let nobody wait any more."""
        self._stopping.set()
        for loop in self._loops:
            loop.stop()
        for one in (*self._subscriptions, *self._numbers):
            one.close()

    async def close(self) -> None:
        """End the loops."""
        self.stop()
        for loop in self._loops:
            await loop.close()

    async def read_position(self) -> int:
        """Read the position of the latest event. Raises `LogUnavailable`."""
        position = await self._read_position()
        self.note_position(position)
        return position

    def note_position(self, position: int) -> None:
        """Note the position of the latest event, which was read from the database."""
        # What is beyond the batches of this process is of others, or of a batch that is about to
        # be reported.
        others = max(self._others_up_to, position if position > self.head.value else 0)
        self._others_up_to = 0
        for one in self._subscriptions:
            one.rise_to(others)

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the server stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def batch_written(self, batch: BatchWritten) -> None:
        """Observe a batch of the writer, which calls this in its thread."""
        loop = self._event_loop
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closed just now
                loop.call_soon_threadsafe(self._advance, batch)

    def _advance(self, batch: BatchWritten) -> None:
        for observer in self._observers:
            observer(batch)
        before = batch.position - sum(batch.events.values())
        if before > self.head.value:
            self._others_up_to = before
        for one in self._subscriptions:
            if one.wants(batch):
                one.rise_to(batch.position)

    async def _poll(self) -> None:
        while self._polling.is_needed:
            self._polling.part.begins()
            if self.has_peers:
                await self.read_position()
            self._polling.part.works()
            await self.pause(self.poll_seconds)
