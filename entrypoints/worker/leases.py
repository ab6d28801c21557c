"""What a worker says of the jobs in hand, beside their outcomes, and what it hears of them.

Heartbeats keep the leases. The begin of a handler is told where the claim did not say it: at once
where a time-out counts from it, else with others that began in the same moment, and not at all of a
job that has ended by then. And a call that waits is answered when a job is cancelled.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from domain.language.errors import FairlogError
from entrypoints.worker.backoff import Backoff, FailureLog
from entrypoints.worker.job_source import AttemptKey, JobSource

PAUSE_SECONDS_MAX: Final = 5.0  # between tries while the source is away
HEARTBEATS_PER_LEASE: Final = 3
LISTEN_SECONDS: Final = 20.0  # that a call waits for a cancellation
BEGIN_SECONDS: Final = 0.5  # from a handler's begin until it is told, where that has time
_AFTER_NEWS_SECONDS: Final = 0.05

_log = structlog.get_logger()


class Leases:
    """`keep`, `listen` and `report_begins` run on the worker's event loop until they are cancelled.

    `named` gives the attempts in hand, `wanted` those of them not known to be lost; `lose` is
    called for each that is learnt to be.
    """

    def __init__(
        self,
        source: JobSource,
        named: Callable[[], list[AttemptKey]],
        wanted: Callable[[], list[AttemptKey]],
        lose: Callable[[AttemptKey], None],
    ) -> None:
        self._source = source
        self._named = named
        self._wanted = wanted
        self._on_lost = lose
        self._failure_log = FailureLog()
        self._has_jobs = asyncio.Event()
        self._begun: set[AttemptKey] = set()  # and not told yet
        self._has_begun = asyncio.Event()
        self._is_urgent = asyncio.Event()

    def jobs_claimed(self) -> None:
        self._has_jobs.set()

    def began(self, key: AttemptKey, *, is_timed: bool) -> None:
        """The handler of an attempt that was claimed ahead of time began."""
        self._begun.add(key)
        self._has_begun.set()
        if is_timed:
            self._is_urgent.set()

    async def say(self, named: Sequence[AttemptKey], begun: Sequence[AttemptKey]) -> bool:
        """One heartbeat. False: it was not heard."""
        try:
            lost = await self._source.heartbeat(named, begun)
        except FairlogError as error:
            if self._failure_log.should_log(str(error)):
                _log.warning("heartbeat_missed", jobs=len(named), reason=str(error))
            return False
        except Exception:  # noqa: BLE001 (a fault of ours must not end the worker)
            _log.exception("heartbeat_failed")
            return False
        self._failure_log.should_log_recovery()
        for key in lost:
            self._on_lost(key)
        return True

    async def keep(self) -> None:
        backoff = Backoff(PAUSE_SECONDS_MAX)
        while True:
            await self._has_jobs.wait()
            pause = self._source.lease_seconds / HEARTBEATS_PER_LEASE
            while not await self._heartbeat_after(pause):
                pause = min(backoff.next_pause(), self._source.lease_seconds / HEARTBEATS_PER_LEASE)
            backoff.reset()

    async def _heartbeat_after(self, pause: float) -> bool:
        await asyncio.sleep(pause)
        named = self._named()
        if not named:
            self._has_jobs.clear()
            return True
        return await self.say(named, ())

    async def listen(self) -> None:
        backoff = Backoff(PAUSE_SECONDS_MAX)
        now = asyncio.get_running_loop().time
        while True:
            await self._has_jobs.wait()
            asked = now()
            lost: Sequence[AttemptKey] = ()
            try:
                lost = await self._source.listen(self._wanted(), LISTEN_SECONDS)
            except FairlogError as error:
                _log.debug("cancellations_unheard", reason=str(error))
            except Exception:  # noqa: BLE001 (see say)
                _log.exception("listening_failed")
            for key in lost:
                self._on_lost(key)
            # An answer without news that came sooner than asked for must not be asked again at
            # once; and what has ended meanwhile looks lost for a moment.
            if lost or now() - asked >= LISTEN_SECONDS / 2:
                backoff.reset()
                await asyncio.sleep(_AFTER_NEWS_SECONDS)
            else:
                await asyncio.sleep(backoff.next_pause())

    async def report_begins(self) -> None:
        backoff = Backoff(PAUSE_SECONDS_MAX)
        while True:
            await self._has_begun.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_urgent.wait(), BEGIN_SECONDS)
            self._has_begun.clear()
            self._is_urgent.clear()
            begun = sorted(self._begun.intersection(self._wanted()))
            self._begun.clear()
            if not begun or await self.say(begun, begun):
                backoff.reset()
                continue
            self._begun.update(begun)
            self._has_begun.set()
            await asyncio.sleep(backoff.next_pause())
