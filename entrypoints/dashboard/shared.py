"""Answers that all open dashboards share: worked out about once a second, once for all.

Whoever has seen an event by the stream asks for an answer that is not older than it, and waits for
the next one rather than getting one from before.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sized
from functools import partial
from typing import Final, Generic, TypeVar

from msgspec import Struct

# How long an answer is shared by whoever opens a page: less than a beat.
SHARED_SECONDS: Final = 0.75
# Between two answers, although the earlier one is older than what has been seen.
APART_SECONDS: Final = 0.25
ROUNDS_MAX: Final = 8  # of waiting for a position; one that never comes is of another log
ANSWERS_MAX: Final = 500
CHARACTERS_MAX: Final = 8 * 1024 * 1024  # of them together; a page of large events has millions

T = TypeVar("T", bound=Sized)


class Dated(Struct, Generic[T]):
    """An answer that holds everything up to a position of the log."""

    position: int
    answer: T


class _Entry(Generic[T]):
    def __init__(self, task: "asyncio.Task[Dated[T]]", strike: int) -> None:
        self.task = task
        self._strike = strike
        self._begun = time.monotonic()

    @property
    def size(self) -> int:
        """Of what it holds."""
        is_there = self.task.done() and not self.task.cancelled() and not self.task.exception()
        return len(self.task.result().answer) if is_there else 0

    @property
    def age(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self._begun

    def serves(self, at_least: int, strike: int) -> bool:
        """Whether to wait for it, or to be content with it for now.

        Open pages ask because the beat has struck: one answer is for all who do, however long they
        take. They say what they have seen; who opens a page has seen nothing.
        """
        if not self.task.done():
            return True
        if self.task.cancelled() or self.task.exception() is not None:
            return False
        is_older = self.task.result().position < at_least
        if is_older:
            return self.age < APART_SECONDS
        return self.age < SHARED_SECONDS or (at_least > 0 and strike == self._strike)


class SharedAnswers(Generic[T]):
    """Use it on one event loop. `strikes` counts those of the beat."""

    def __init__(self, strikes: Callable[[], int]) -> None:
        self._strikes = strikes
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()

    async def get(self, key: str, at_least: int, make: Callable[[], Awaitable[Dated[T]]]) -> T:
        """The answer under a key, not from before position `at_least`. `make` works it out."""
        for _ in range(ROUNDS_MAX):
            entry = self._entries.get(key)
            if entry is None or not entry.serves(at_least, self._strikes()):
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
        entry = self._entries[key] = _Entry(asyncio.ensure_future(_awaited(make)), self._strikes())
        self._entries.move_to_end(key)
        entry.task.add_done_callback(partial(self._has_ended, key, entry))
        while len(self._entries) > ANSWERS_MAX:
            self._entries.popitem(last=False)
        return entry

    def _has_ended(self, key: str, entry: _Entry[T], task: "asyncio.Task[Dated[T]]") -> None:
        """An error holds all that was at hand where it was raised, and is forgotten. Of answers
        the latest are kept, as far as they fit.
        """
        if (task.cancelled() or task.exception() is not None) and self._entries.get(key) is entry:
            del self._entries[key]
        size = sum(one.size for one in self._entries.values())
        while size > CHARACTERS_MAX:
            size -= self._entries.popitem(last=False)[1].size


async def _awaited(make: Callable[[], Awaitable[Dated[T]]]) -> Dated[T]:
    return await make()
