"""The worker: it claims jobs while it has free slots, runs them, keeps their leases and reports
their outcomes.

One task claims, one reports outcomes, and those of `leases` send heartbeats and watch for
cancellations. Each retries with backoff while the source is away; only the claiming one ends, when
the source refuses every claim of this worker.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from fairlog_client.logs.log import Log
from fairlog_client.worker.attempt import Attempt, Interruption
from fairlog_client.worker.backoff import Backoff, FailureLog
from fairlog_client.worker.error_bodies import error_body, summary_of
from fairlog_client.worker.execution import Executor
from fairlog_client.worker.job_source import (
    JOBS_PER_CALL_MAX,
    JobSource,
    KindsRefused,
    SourceAway,
    SourceError,
    SourceRefused,
)
from fairlog_client.worker.leases import Leases
from fairlog_client.worker.loops import KeepRunning, keep_running
from fairlog_client.worker.outcomes import AttemptKey, ClaimedJob, Failed, ProgressReport, Returned
from fairlog_client.worker.prefetch import AdaptivePrefetch, FixedPrefetch, Prefetch
from fairlog_client.worker.result_reporter import ResultReporter

WAIT_SECONDS: Final = 20.0  # that a claim waits for work
PAUSE_SECONDS_MAX: Final = 5.0  # between tries while the source is away
# At a stop, in addition to the grace time:
RECALL_SECONDS: Final = 3.0  # for a claim whose answer is missing
END_SECONDS: Final = 1.0  # for handlers that were cancelled
FLUSH_SECONDS: Final = 5.0  # for the last outcomes

_log = Log("worker")


class Worker:
    """A worker, which is started and stopped once, on one event loop.

    `concurrency` jobs run at once, with async and other handlers counted alike. `prefetch` more
    (default 0) are claimed ahead of time; they wait for this worker even if another one is idle.
    None: as many as handlers lately ended in a moment (`AdaptivePrefetch`). A claim waits up to
    `wait_seconds` (default 20) for work.
    """

    def __init__(
        self,
        source: JobSource,
        executor: Executor,
        concurrency: int,
        *,
        prefetch: int | None = 0,
        wait_seconds: float = WAIT_SECONDS,
        keep_running: KeepRunning = keep_running,
        logs_failures: bool = False,
    ) -> None:
        """`logs_failures`: log failed attempts, which a server in this process would log too."""
        self._logs_failures = logs_failures
        self._keep_running = keep_running
        self._refused: SourceRefused | None = None
        self._source = source
        self._executor = executor
        self._kinds = tuple(sorted(executor.kinds))
        self._concurrency = concurrency
        self._prefetch: Prefetch = (
            AdaptivePrefetch(concurrency) if prefetch is None else FixedPrefetch(prefetch)
        )
        self._wait_seconds = wait_seconds
        self._reporter = ResultReporter(source, self._outcomes_delivered)
        self._ran_alone: set[AttemptKey] = set()  # and their outcomes are not on disk yet
        self._failure_log = FailureLog()  # of claims
        self._waiting: deque[Attempt] = deque()  # claimed, without a slot yet
        self._running: dict[AttemptKey, tuple[Attempt, asyncio.Task[None]]] = {}
        self._leases = Leases(source, self._held, self._live, self._on_lost)
        self._can_claim = asyncio.Event()
        self._open_claim: str | None = None  # the id of a claim without an answer
        self._claiming: list[asyncio.Task[None]] = []
        self._background: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start on the running event loop."""
        self._executor.start()
        self._can_claim.set()
        self._claiming = [self._supervise("worker_claims", self._claim_until_refused)]
        self._background = [
            self._supervise("worker_heartbeats", self._leases.send_heartbeats),
            self._supervise("worker_cancellations", self._leases.watch_cancellations),
            self._supervise("worker_begins", self._leases.report_begins),
            self._supervise("worker_progress", self._leases.report_progress),
            self._supervise("worker_outcomes", self._reporter.deliver),
        ]

    def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        return asyncio.create_task(self._run_loop(name, run), name=name.replace("_", "-"))

    async def _run_loop(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        await self._keep_running(name, run)

    async def claims_end(self) -> SourceRefused | None:
        """Wait until a started worker claims no more. Returns the refusal; None if it stopped."""
        await asyncio.wait(self._claiming)
        return self._refused

    async def stop(self, grace_seconds: float) -> None:
        """Claim no more, wait up to `grace_seconds` for running jobs, and return the others."""
        await self._stop_claiming()
        for attempt in self._waiting:
            self._reporter.put(attempt.return_command())
        self._waiting.clear()
        running = len(self._running)
        if running:
            _log.info("worker_waits", running=running, grace_seconds=grace_seconds)
        await self._let_end(grace_seconds)
        for attempt, _ in self._running.values():
            _log_job("job_not_ended", attempt)
            attempt.interrupt(Interruption.STOPPED)
        await self._let_end(END_SECONDS)
        for attempt, _ in self._running.values():
            self._reporter.put(attempt.return_command())
            attempt.interrupt(Interruption.LOST)  # a later outcome is discarded
        await self._reporter.flush(FLUSH_SECONDS)
        await _cancel(self._background)
        await self._executor.stop()

    # Claiming

    async def _claim_until_refused(self) -> None:
        try:
            await self._claim_jobs()
        except SourceRefused as error:
            self._refused = error

    async def _claim_jobs(self) -> None:
        """Raises `SourceRefused`."""
        backoff = Backoff(PAUSE_SECONDS_MAX)
        while True:
            await self._can_claim.wait()
            await self._executor.able.wait()
            await self._reporter.can_deliver.wait()  # or undelivered outcomes would pile up
            if self._claimable <= 0 and self._open_claim is None:
                self._can_claim.clear()  # until a job ends: fewer are claimed ahead by now
                continue
            started = _now()
            jobs = await self._claim()
            # Do not repeat at once a claim that came back empty before its time.
            if jobs or (jobs is not None and _now() - started >= self._wait_seconds / 2):
                backoff.reset()
                self._accept(jobs)
                await asyncio.sleep(0)  # the jobs begin before the next claim is made
            else:
                await asyncio.sleep(backoff.next_pause())

    async def _claim(self) -> Sequence[ClaimedJob] | None:
        """Return claimed jobs; None without an answer. The next call then repeats this claim."""
        self._open_claim = self._open_claim or secrets.token_hex(8)
        max_jobs = min(max(1, self._claimable), JOBS_PER_CALL_MAX)
        try:
            jobs = await self._source.claim(
                max_jobs, self._kinds, self._wait_seconds, self._open_claim, self._slots_free
            )
        except SourceAway as error:
            if self._failure_log.should_log(str(error)):
                _log.warning("source_away", reason=str(error))
            return None
        except KindsRefused as refused:
            self._leave_out(refused)
            return None
        except SourceRefused:
            raise
        except Exception:  # noqa: BLE001 (a fault of ours must not end the worker)
            _log.exception("claim_failed")
            return None
        if self._failure_log.should_log_recovery():
            _log.info("source_answers")
        self._open_claim = None
        return jobs

    def _leave_out(self, refused: KindsRefused) -> None:
        """Claim only the kinds that the worker may claim. Raises `SourceRefused` if it has none."""
        allowed = tuple(kind for kind in self._kinds if kind in refused.allowed)
        left_out = [kind for kind in self._kinds if kind not in refused.allowed]
        if not allowed or not left_out:
            raise SourceRefused(str(refused))
        _log.info("kinds_left_out", kinds=left_out, reason="The API key is not for them.")
        self._kinds = allowed

    async def _stop_claiming(self) -> None:
        """Cancel the claiming task, and return the jobs of a claim that was not answered."""
        await _cancel(self._claiming)
        if self._open_claim is None:
            return
        try:
            jobs = await asyncio.wait_for(self._source.recall(self._open_claim), RECALL_SECONDS)
        except (SourceError, asyncio.TimeoutError) as error:
            # The leases of its jobs, if there are any, expire.
            _log.warning("claim_unknown", reason=f"{type(error).__name__}: {error}")
            return
        for job in jobs:
            self._reporter.put(Returned(job_id=job.id, attempt=job.attempt, begun=False))

    # Running

    @property
    def _slots_free(self) -> int:
        """The number of jobs that would begin at once."""
        slots = self._concurrency - len(self._running) - len(self._waiting)
        return max(0, min(slots, self._executor.free))

    @property
    def _claimable(self) -> int:
        """The number of jobs that may be claimed: none while a job runs alone, nor until its
        outcome is on disk, since for the log it runs until then.
        """
        if self._ran_alone or any(attempt.claimed.alone for attempt in self._attempts()):
            return 0
        ahead = self._prefetch.claimable(len(self._waiting), self._source.lease_seconds)
        return self._concurrency - len(self._running) + ahead

    def _accept(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in jobs:
            self._interrupt_earlier_attempts(job)
            if job.kind in self._executor.kinds:
                self._waiting.append(Attempt(job, self._executor, self._began, self._progressed))
            else:
                self._reporter.put(_missing_handler(job))
        self._leases.jobs_claimed()
        self._fill_slots()
        seconds_max = self._prefetch.unbegun_seconds_max
        if self._waiting and seconds_max is not None:
            asyncio.get_running_loop().call_later(
                seconds_max, self._return_unbegun, list(self._waiting)
            )

    def _return_unbegun(self, attempts: Sequence[Attempt]) -> None:
        """Return those of the attempts that still wait for a slot: another worker may be idle."""
        late = {one.key for one in attempts if not one.claimed.alone}
        unbegun = [one for one in self._waiting if one.key in late]
        if unbegun:
            self._prefetch.reset()
            self._waiting = deque(one for one in self._waiting if one.key not in late)
            for attempt in unbegun:
                self._reporter.put(attempt.return_command())
            self._fill_slots()

    def _interrupt_earlier_attempts(self, job: ClaimedJob) -> None:
        """Interrupt the earlier attempts at a job: a new attempt means that they were lost."""
        for attempt, _ in self._running.values():
            if attempt.claimed.id == job.id:
                attempt.interrupt(Interruption.LOST)

    def _fill_slots(self) -> None:
        while self._waiting and self._may_begin(self._waiting[0]):
            attempt = self._waiting.popleft()
            task = asyncio.create_task(self._run(attempt), name=f"job-{attempt.claimed.id}")
            self._running[attempt.key] = attempt, task
        if self._claimable > 0:
            self._can_claim.set()
        else:
            self._can_claim.clear()

    def _may_begin(self, attempt: Attempt) -> bool:
        """Return False while no slot is free; for a job that runs alone, while any other runs."""
        if attempt.claimed.alone:
            return not self._running
        return len(self._running) < self._concurrency

    def _began(self, attempt: Attempt) -> None:
        claimed = attempt.claimed
        if not claimed.started and not claimed.alone:
            self._leases.began(attempt.key, is_timed=claimed.timeout_seconds is not None)

    def _progressed(self, attempt: Attempt, progress: ProgressReport) -> None:
        self._leases.progressed(attempt.key, progress)

    async def _report_begin(self, attempt: Attempt) -> None:
        """Report that a handler begins, before it does: if it ends this process, the log must know
        that it had begun.
        """
        backoff = Backoff(PAUSE_SECONDS_MAX)
        keys = [attempt.key]
        while not attempt.is_interrupted:
            if await self._leases.heartbeat(keys, keys):
                return
            await asyncio.sleep(backoff.next_pause())

    async def _run(self, attempt: Attempt) -> None:
        try:
            if attempt.claimed.alone:
                await self._report_begin(attempt)
            outcome = await attempt.run()
            if self._logs_failures and isinstance(outcome, Failed):
                _log_failure(attempt.claimed, outcome)
            # A lost attempt has no outcome, but its end frees its place under a cap.
            self._reporter.put(outcome or attempt.return_command())
            if attempt.claimed.alone:
                self._ran_alone.add(attempt.key)
        finally:
            del self._running[attempt.key]
            self._prefetch.ended()
            self._fill_slots()

    def _outcomes_delivered(self) -> None:
        if self._ran_alone:
            self._ran_alone.intersection_update(self._reporter.undelivered)
            self._fill_slots()

    async def _let_end(self, seconds_max: float) -> None:
        if self._running:
            await asyncio.wait([task for _, task in self._running.values()], timeout=seconds_max)

    # Held attempts

    def _attempts(self) -> Iterable[Attempt]:
        return [*self._waiting, *(attempt for attempt, _ in self._running.values())]

    def _held(self) -> list[AttemptKey]:
        """List the attempts to extend, lost ones among them: they keep their place under a cap
        while their handlers run.
        """
        return sorted({*(one.key for one in self._attempts()), *self._reporter.undelivered})

    def _live(self) -> list[AttemptKey]:
        """List the attempts that are not known to be lost."""
        return sorted(one.key for one in self._attempts() if not one.is_lost)

    def _on_lost(self, key: AttemptKey) -> None:
        """Interrupt a lost attempt. An undelivered outcome stays: it may have ended the lease."""
        for waiting in [one for one in self._waiting if one.key == key]:
            self._waiting.remove(waiting)
            self._reporter.put(waiting.return_command())
        attempt, _ = self._running.get(key, (None, None))
        if attempt is not None and not attempt.is_lost:
            _log_job("job_lost", attempt)
            attempt.interrupt(Interruption.LOST)
        self._fill_slots()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _log_job(event: str, attempt: Attempt) -> None:
    claimed = attempt.claimed
    _log.info(
        event,
        job=claimed.id,
        attempt=claimed.attempt,
        kind=claimed.kind,
        user=claimed.user_id,
        ran_seconds=round(attempt.ran_seconds, 1),
    )


def _log_failure(job: ClaimedJob, failure: Failed) -> None:
    _log.warning(
        "attempt_failed",
        job=job.id,
        kind=job.kind,
        user=job.user_id,
        attempt=job.attempt,
        error=summary_of(failure.error),
    )


def _missing_handler(job: ClaimedJob) -> Failed:
    error = error_body("LookupError", f"This worker has no handler for the kind {job.kind!r}.")
    return Failed(job_id=job.id, attempt=job.attempt, error=error)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
