"""The clients of `fairlog_client`, called alike: the asynchronous one blocks, too."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from fairlog_client import AsyncFairlog, AsyncJob, Fairlog


class BlockingFairlog:
    """An `AsyncFairlog` whose methods return what they await. A context manager."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncFairlog(*args, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        return _blocking(getattr(self._client, name), self._loop)


class BlockingJob:
    """An `AsyncJob` likewise."""

    def __init__(self, job: AsyncJob, loop: asyncio.AbstractEventLoop) -> None:
        self._job = job
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return _blocking(getattr(self._job, name), self._loop)


def _blocking(value: Any, loop: asyncio.AbstractEventLoop) -> Any:
    if inspect.iscoroutine(value):
        return _blocking(loop.run_until_complete(value), loop)
    if isinstance(value, AsyncJob):
        return BlockingJob(value, loop)
    if isinstance(value, AsyncIterator):
        return _iterated(value, loop)
    if inspect.isroutine(value):
        return lambda *args, **kwargs: _blocking(value(*args, **kwargs), loop)
    return value


def _iterated(items: Any, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    try:
        while True:
            try:
                yield _blocking(loop.run_until_complete(anext(items)), loop)
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(items.aclose())


CLIENTS: dict[str, Any] = {"Fairlog": Fairlog, "AsyncFairlog": BlockingFairlog}
