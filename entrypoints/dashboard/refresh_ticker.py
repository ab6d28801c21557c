"""The beat at which open pages ask anew: one for all, so that one answer serves them all.

It strikes when there is news, but not twice within a second; once more a second after the last
news, for what follows the log comes a little later; and then every ten seconds, since windows and
waits change without an event.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

from adapters.supervision import Part, keep_running
from entrypoints.feeds.log_watcher import LogWatcher

BEAT_SECONDS: Final = 1.0
QUIET_BEATS: Final = 10  # without news, between two strikes


class RefreshTicker:
    """One a process, on one event loop. Without listeners it stands still."""

    def __init__(self, tail: LogWatcher, part: Part | None = None) -> None:
        self._part = Part("dashboard") if part is None else part
        self._tail = tail
        self._end = 0  # of the log, when it was last looked at
        self._strikes = 0
        self._moved = asyncio.Event()  # replaced each time: set for all who hold the old one
        self._listeners = 0
        self._beating: asyncio.Task[None] | None = None

    @property
    def strikes(self) -> int:
        """How many there have been."""
        return self._strikes

    async def listen(self, position: int) -> AsyncIterator[int]:
        """Where the log ends, at each strike, and at once if that is beyond `position`.

        Until the server stops.
        """
        with self._listening():
            strikes = self._strikes
            while not self._tail.is_stopping:
                moved = self._moved
                if self._end > position or self._strikes != strikes:
                    position, strikes = self._end, self._strikes
                    yield position
                else:
                    await moved.wait()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        self._listeners += 1
        if self._beating is None or self._beating.done():
            self._end = 0
            self._beating = asyncio.create_task(keep_running(self._part, self._run), name="beat")
        try:
            yield
        finally:
            self._listeners -= 1

    async def _run(self) -> None:
        quiet = 0
        async with contextlib.aclosing(self._tail.beyond(0, BEAT_SECONDS)) as ends:
            async for end in ends:
                if not self._listeners:
                    break
                is_first, has_news = self._end == 0, end > self._end
                quiet = 0 if has_news else quiet + 1
                self._move(end, strikes=not is_first and _strikes(quiet))
                self._part.works()
                if has_news and not is_first:
                    await self._tail.pause(BEAT_SECONDS)
        self._move(self._end, strikes=False)

    def _move(self, end: int, *, strikes: bool) -> None:
        self._end = end
        self._strikes += strikes
        self._moved.set()
        self._moved = asyncio.Event()


def _strikes(quiet: int) -> bool:
    """Whether to strike after so many seconds without news."""
    return quiet <= 1 or quiet % QUIET_BEATS == 0
