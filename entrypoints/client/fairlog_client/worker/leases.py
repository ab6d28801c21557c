"""Keeps the leases of a worker's jobs, reports which handlers begin, and notices lost attempts.

A handler that was claimed ahead of time is reported when it begins: at once if its job has a
time-out, which counts from then, else together with others, and not at all if it has ended by then.
A long poll is answered when a job is cancelled.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fairlog_client.logs.log import Log
from fairlog_client.worker.backoff import Backoff, FailureLog
from fairlog_client.worker.job_source import JobSource, SourceError
from fairlog_client.worker.outcomes import AttemptKey, ProgressReport

PAUSE_SECONDS_MAX: Final = 5.0  # between tries while the source is away
HEARTBEATS_PER_LEASE: Final = 3
CANCELLATION_WAIT_SECONDS: Final = 20.0  # the length of a long poll
BEGIN_REPORT_SECONDS: Final = 0.5  # the longest delay of a report without a time-out
PROGRESS_REPORT_SECONDS: Final = 2.0  # between two reports of progress
_AFTER_LOSS_SECONDS: Final = 0.05

_log = Log("worker")


class Leases:
    """The leases of a worker. Its three loops run on the worker's event loop until cancelled.

    `held` returns the attempts whose leases are extended, `live` those of them that are not known
    to be lost; `on_lost` is called for each attempt that the source reports as lost.
    """

    def __init__(
        self,
        source: JobSource,
        held: Callable[[], list[AttemptKey]],
        live: Callable[[], list[AttemptKey]],
        on_lost: Callable[[AttemptKey], None],
    ) -> None:
        self._source = source
        self._held = held
        self._live = live
        self._on_lost = on_lost
        self._failure_log = FailureLog()
        self._has_jobs = asyncio.Event()
        self._begun: set[AttemptKey] = set()  # and not reported yet
        self._has_begun = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._progress: dict[
            AttemptKey, ProgressReport
        ] = {}  # the latest of each, not reported yet
        self._has_progress = asyncio.Event()

    def jobs_claimed(self) -> None:
        """Start heartbeats, which pause while no job is held."""
        self._has_jobs.set()

    def began(self, key: AttemptKey, *, is_timed: bool) -> None:
        """Report soon that the handler of an attempt claimed ahead of time has begun."""
        self._begun.add(key)
        self._has_begun.set()
        if is_timed:
            self._is_urgent.set()

    def progressed(self, key: AttemptKey, progress: ProgressReport) -> None:
        """Report soon how far a handler is."""
        self._progress[key] = progress
        self._has_progress.set()

    async def heartbeat(self, held: Sequence[AttemptKey], begun: Sequence[AttemptKey]) -> bool:
        """Send one heartbeat, with the progress of the jobs that it names.

        Returns False if it failed; raises nothing.
        """
        progress = {key: self._progress.pop(key) for key in held if key in self._progress}
        if await self._send(held, begun, progress):
            return True
        self._progress = progress | self._progress  # a later report stays
        return False

    async def _send(
        self,
        held: Sequence[AttemptKey],
        begun: Sequence[AttemptKey],
        progress: Mapping[AttemptKey, ProgressReport],
    ) -> bool:
        try:
            lost = await self._source.heartbeat(held, begun, progress)
        except SourceError as error:
            if self._failure_log.should_log(str(error)):
                _log.warning("heartbeat_missed", jobs=len(held), reason=str(error))
            return False
        except Exception:  # noqa: BLE001 (a fault of ours must not end the worker)
            _log.exception("heartbeat_failed")
            return False
        self._failure_log.should_log_recovery()
        for key in lost:
            self._on_lost(key)
        return True

    async def send_heartbeats(self) -> None:
        """Send HEARTBEATS_PER_LEASE heartbeats in the length of a lease, while jobs are held."""
        backoff = Backoff(PAUSE_SECONDS_MAX)
        while True:
            await self._has_jobs.wait()
            pause = self._source.lease_seconds / HEARTBEATS_PER_LEASE
            while not await self._heartbeat_after(pause):
                pause = min(backoff.next_pause(), self._source.lease_seconds / HEARTBEATS_PER_LEASE)
            backoff.reset()

    async def _heartbeat_after(self, pause: float) -> bool:
        await asyncio.sleep(pause)
        held = self._held()
        if not held:
            self._has_jobs.clear()
            return True
        return await self.heartbeat(held, ())

    async def watch_cancellations(self) -> None:
        """Long-poll the source for lost attempts, while jobs are held."""
        backoff = Backoff(PAUSE_SECONDS_MAX)
        now = asyncio.get_running_loop().time
        while True:
            await self._has_jobs.wait()
            started = now()
            lost: Sequence[AttemptKey] = ()
            try:
                lost = await self._source.wait_for_cancellation(
                    self._live(), CANCELLATION_WAIT_SECONDS
                )
            except SourceError as error:
                _log.debug("cancellations_unheard", reason=str(error))
            except Exception:  # noqa: BLE001 (see heartbeat)
                _log.exception("listening_failed")
            for key in lost:
                self._on_lost(key)
            # Do not repeat at once a poll that came back empty before its time. After a loss, wait
            # a moment: an attempt whose outcome is on its way also looks lost.
            if lost or now() - started >= CANCELLATION_WAIT_SECONDS / 2:
                backoff.reset()
                await asyncio.sleep(_AFTER_LOSS_SECONDS)
            else:
                await asyncio.sleep(backoff.next_pause())

    async def report_progress(self) -> None:
        """Report progress that no other heartbeat has taken along."""
        while True:
            await self._has_progress.wait()
            await asyncio.sleep(PROGRESS_REPORT_SECONDS)
            self._has_progress.clear()
            reported = sorted(self._progress.keys() & set(self._live()))
            if reported:
                await self.heartbeat(reported, ())
            self._progress = {key: self._progress[key] for key in reported if key in self._progress}
            if self._progress:  # the source was away
                self._has_progress.set()

    async def report_begins(self) -> None:
        """Report the handlers that `began` names."""
        backoff = Backoff(PAUSE_SECONDS_MAX)
        while True:
            await self._has_begun.wait()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._is_urgent.wait(), BEGIN_REPORT_SECONDS)
            self._has_begun.clear()
            self._is_urgent.clear()
            begun = sorted(self._begun.intersection(self._live()))
            self._begun.clear()
            if not begun or await self.heartbeat(begun, begun):
                backoff.reset()
                continue
            self._begun.update(begun)
            self._has_begun.set()
            await asyncio.sleep(backoff.next_pause())
