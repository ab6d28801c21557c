"""Wait for a condition with a deadline, never for a time to pass."""

import asyncio
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Poll a condition. Raises AssertionError with `what` if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll a condition on the event loop. Raises TimeoutError if it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (a condition of any kind)
            await asyncio.sleep(0.005)
