"""The ticks at which open pages ask anew: one clock for all, so that one answer serves them all.

It ticks when there are events, but not twice within a second; once more a second after the last
event, since projections that follow the log come a little later; and then every ten seconds, since
windows and waiting times change without an event.
"""

from collections.abc import AsyncGenerator
from typing import Final

from adapters.supervision import Part
from entrypoints.feeds.log_watcher import LogWatcher

TICK_SECONDS: Final = 1.0
QUIET_SECONDS_PER_TICK: Final = 10  # without events


class RefreshTicker:
    """One per process, on one event loop. It stands still while no page is open."""

    def __init__(
        self,
        watcher: LogWatcher,
        part: Part | None = None,
        *,
        tick_seconds: float = TICK_SECONDS,
        quiet_per_tick: int = QUIET_SECONDS_PER_TICK,
    ) -> None:
        """`quiet_per_tick` counts spans of `tick_seconds`."""
        self._watcher = watcher
        self._tick_seconds = tick_seconds
        self._quiet_per_tick = quiet_per_tick
        self._position = 0  # of the latest event, at the latest tick
        self._ticks = watcher.rising_number()
        self._ticking = watcher.loop(Part("dashboard") if part is None else part, self._run)

    @property
    def ticks(self) -> int:
        """Number of ticks since the start."""
        return self._ticks.value

    async def listen(self, position: int) -> AsyncGenerator[int]:
        """Yield the position of the latest event at each tick, and at once if that is known to be
        beyond `position`. Ends when the server stops.
        """
        with self._ticking.needed():
            ticks = self._ticks.value
            if self._watcher.head.value > position:
                yield self._watcher.head.value
            while await self._ticks.wait_beyond(ticks):
                ticks = self._ticks.value
                yield self._position

    async def _run(self) -> None:
        self._position = await self._watcher.read_position()
        quiet = 0  # spans without events
        while self._ticking.is_needed:
            if await self._watcher.head.wait_beyond(self._position, self._tick_seconds):
                quiet, self._position = 0, self._watcher.head.value
            else:
                quiet += 1
            if quiet <= 1 or quiet % self._quiet_per_tick == 0:
                self._ticks.rise_to(self._ticks.value + 1)
            self._ticking.part.works()
            if quiet == 0:
                await self._watcher.pause(self._tick_seconds)
