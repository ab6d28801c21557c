"""Loops that must run as long as the worker does. No error ends one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from fairlog_client.logs.log import Log
from fairlog_client.worker.backoff import Backoff

PAUSE_SECONDS_MAX = 5.0
STEADY_SECONDS = 10.0  # after a run of that length, the next pause is short again

# Runs a loop of this name until it is cancelled, or the loop returns.
KeepRunning: TypeAlias = Callable[[str, Callable[[], Awaitable[None]]], Awaitable[None]]

_log = Log("worker")


async def keep_running(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a loop until it is cancelled, or returns; start it again, after a pause, if it raises."""
    backoff = Backoff(PAUSE_SECONDS_MAX)
    while True:
        began = time.monotonic()
        try:
            await run()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except asyncio.CancelledError:
            if is_cancelling():
                raise
            _log.error("part_failing", part=name, reason="what it awaited was cancelled")
        except BaseException as error:  # noqa: BLE001 (not even SystemExit ends a loop for good)
            _log.error("part_failing", part=name, reason=type(error).__name__, exc_info=error)
        else:
            return
        if time.monotonic() - began > STEADY_SECONDS:
            backoff.reset()
        await asyncio.sleep(backoff.next_pause())


def is_cancelling() -> bool:
    """Return True if the current task was cancelled, and not something that it awaited.

    Python 3.10 does not know; there the answer is always True.
    """
    cancelling: Callable[[], int] | None = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is None or cancelling() > 0
