"""Answers that all open dashboards share, computed at most about once a second.

A page that has seen an event asks for an answer that is not older, and waits for the next one if
the shared one is.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sized
from functools import partial
from typing import Final, Generic, TypeVar

from msgspec import Struct

# How long an answer is shared with those who open a page: less than a tick.
SHARED_SECONDS: Final = 0.75
# How long one is shared with open pages while no tick comes: workers die without an event.
STALE_SECONDS: Final = 5.0
# Between two answers, even if the earlier one is older than what a page has seen.
APART_SECONDS: Final = 0.25
ROUNDS_MAX: Final = 8  # of waiting for a position; one that is never reached belongs to another log
ANSWERS_MAX: Final = 500
CHARACTERS_MAX: Final = 8 * 1024 * 1024  # of all answers; a page of large events has millions

T = TypeVar("T", bound=Sized)


class Dated(Struct, Generic[T]):
    """An answer that contains all events up to a position of the log."""

    position: int
    answer: T


class _Entry(Generic[T]):
    def __init__(self, task: "asyncio.Task[Dated[T]]", tick: int) -> None:
        self.task = task
        self._tick = tick
        self._begun = time.monotonic()

    @property
    def size(self) -> int:
        """Characters of the answer; 0 until there is one."""
        is_ready = self.task.done() and not self.task.cancelled() and not self.task.exception()
        return len(self.task.result().answer) if is_ready else 0

    @property
    def age(self) -> float:
        """Seconds since it was requested."""
        return time.monotonic() - self._begun

    def serves(self, at_least: int, tick: int) -> bool:
        """Return True if a caller is to wait for this answer, or use it.

        Open pages ask at a tick: one answer serves all who do, however late they ask. They send
        the position that they have seen; a page that is just opened has seen none.
        """
        if not self.task.done():
            return True
        if self.task.cancelled() or self.task.exception() is not None:
            return False
        is_older = self.task.result().position < at_least
        if is_older:
            return self.age < APART_SECONDS
        is_of_tick = at_least > 0 and tick == self._tick and self.age < STALE_SECONDS
        return self.age < SHARED_SECONDS or is_of_tick


class SharedAnswers(Generic[T]):
    """One per process, used on one event loop. `ticks` returns how many ticks there have been."""

    def __init__(self, ticks: Callable[[], int]) -> None:
        self._ticks = ticks
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()

    async def get(self, key: str, at_least: int, make: Callable[[], Awaitable[Dated[T]]]) -> T:
        """Return the answer of a key, not older than position `at_least`. `make` computes it."""
        for _ in range(ROUNDS_MAX):
            entry = self._entries.get(key)
            if entry is None or not entry.serves(at_least, self._ticks()):
                entry = self._begin(key, make)
            try:
                dated = await asyncio.shield(entry.task)
            except BaseException:
                del entry  # its task has the error
                raise
            if dated.position >= at_least:
                break
            await asyncio.sleep(max(0.0, APART_SECONDS - entry.age))
        return dated.answer

    def _begin(self, key: str, make: Callable[[], Awaitable[Dated[T]]]) -> _Entry[T]:
        entry = self._entries[key] = _Entry(asyncio.ensure_future(_awaited(make)), self._ticks())
        self._entries.move_to_end(key)
        entry.task.add_done_callback(partial(self._has_ended, key, entry))
        while len(self._entries) > ANSWERS_MAX:
            self._entries.popitem(last=False)
        return entry

    def _has_ended(self, key: str, entry: _Entry[T], task: "asyncio.Task[Dated[T]]") -> None:
        """Drop an error, which would keep alive all frames that it left; of the answers, keep the
        latest that fit.
        """
        if (task.cancelled() or task.exception() is not None) and self._entries.get(key) is entry:
            del self._entries[key]
        size = sum(one.size for one in self._entries.values())
        while size > CHARACTERS_MAX:
            size -= self._entries.popitem(last=False)[1].size


async def _awaited(make: Callable[[], Awaitable[Dated[T]]]) -> Dated[T]:
    return await make()
