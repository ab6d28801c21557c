"""Answers that all open dashboards share: worked out at most a few times a second, once for all.

Whoever has seen an event by the stream asks for an answer that is not older than it, and waits for
the next one rather than getting one from before.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from msgspec import Struct

FRESH_SECONDS: Final = 0.25
ROUNDS_MAX: Final = 8  # of waiting for a position; one that never comes is of another log
ANSWERS_MAX: Final = 500

T = TypeVar("T")


class Dated(Struct, Generic[T]):
    """An answer that holds everything up to a position of the log."""

    position: int
    answer: T


class _Entry(Generic[T]):
    def __init__(self, task: "asyncio.Task[Dated[T]]") -> None:
        self.task = task
        self._begun = time.monotonic()

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self._begun >= FRESH_SECONDS


class SharedAnswers(Generic[T]):
    """Use it on one event loop."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()

    async def get(self, key: str, at_least: int, make: Callable[[], Awaitable[Dated[T]]]) -> T:
        """The answer under a key, not from before position `at_least`. `make` works it out."""
        for _ in range(ROUNDS_MAX):
            dated = await asyncio.shield(self._current(key, make).task)
            if dated.position >= at_least:
                break
            await asyncio.sleep(FRESH_SECONDS)
        return dated.answer

    def _current(self, key: str, make: Callable[[], Awaitable[Dated[T]]]) -> _Entry[T]:
        entry = self._entries.get(key)
        if entry is not None and not entry.task.done():
            return entry
        if entry is None or entry.is_stale or _has_failed(entry.task):
            return self._begin(key, make)
        return entry

    def _begin(self, key: str, make: Callable[[], Awaitable[Dated[T]]]) -> _Entry[T]:
        entry = self._entries[key] = _Entry(asyncio.ensure_future(_awaited(make)))
        self._entries.move_to_end(key)
        while len(self._entries) > ANSWERS_MAX:
            self._entries.popitem(last=False)
        return entry


async def _awaited(make: Callable[[], Awaitable[Dated[T]]]) -> Dated[T]:
    return await make()


def _has_failed(task: "asyncio.Task[Dated[T]]") -> bool:
    return task.cancelled() or task.exception() is not None
