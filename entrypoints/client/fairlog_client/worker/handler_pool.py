"""The pool of processes in which a worker runs its handlers.

A handler may hang, hold the interpreter, or end its process. None of that affects the worker, which
claims jobs, keeps leases and reports in a process that runs no code of the user's.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from fairlog_client.logs.log import Log
from fairlog_client.worker.backoff import Backoff
from fairlog_client.worker.execution import (
    Execution,
    ProgressSink,
    RunResult,
    given_up,
    ignore_progress,
    not_begun,
    timeout_of,
)
from fairlog_client.worker.handler_process import IMPORT_LOG_SECONDS, HandlerProcess
from fairlog_client.worker.handler_protocol import HandlerHello
from fairlog_client.worker.loops import keep_running
from fairlog_client.worker.outcomes import ClaimedJob

CHECK_SECONDS: Final = 1.0  # between two checks of the processes
START_PAUSE_SECONDS_MAX: Final = 30.0  # between two tries to start a process
STOP_SECONDS_MAX: Final = 3.0  # until the processes are killed
NOTES_MAX: Final = 1000  # given-up jobs that `note` remembers
_NAMED_MAX: Final = 5  # jobs in a message
ALONE_MAX: Final = 2  # suspects that are run at once, each in a process of its own
ALONE_SECONDS: Final = 10.0  # after that a suspect no longer counts for ALONE_MAX
# A handler without a time-out may block the others of its process so long; then each is run alone.
HELD_SECONDS_MAX: Final = 30.0
# A process is replaced when a quarter of its capacity, at least one handler, was given up. The
# handlers that it still runs may end; the given-up ones end with the process.
_CAPACITY_PER_GIVEN_UP: Final = 4
_USED_MAX: Final = 0.05  # the part of its time-out that a run may have used if it is run again

_log = Log("worker")


class HandlersTrouble(Struct, frozen=True):
    """The reason why handlers do not work."""

    reason: str  # a sentence
    seconds: float  # since it began


class HandlerPool:
    """An `Executor`. Call `prepare` before the event loop and `start` on it.

    One process runs `concurrency` handlers at once. With `is_one_each`, up to `concurrency`
    processes run one each, so that a handler that ignores its cancel is killed alone.
    """

    def __init__(self, hello: HandlerHello, concurrency: int, *, is_one_each: bool = False) -> None:
        self.kinds: Mapping[str, float | None] = {}
        self.given_up: Counter[str] = Counter()  # given-up handlers by kind
        self.replaced = 0  # processes that were replaced because of their handlers
        self.died = 0  # processes that ended although they were not closed
        self.problem: str | None = None  # the reason why no process is ready
        self.able = asyncio.Event()
        self.able.set()
        self._troubled_since: float | None = None  # time.monotonic()
        self._notes: dict[int, str] = {}  # about given-up handlers, the latest last
        self._hello = hello
        self._capacity = 1 if is_one_each else concurrency
        self._processes_max = concurrency if is_one_each else 1
        self._processes: list[HandlerProcess] = []
        self._waiting: deque[Execution] = deque()  # for a free process
        self._suspects: deque[Execution] = deque()  # for a process of their own
        self._alone: dict[HandlerProcess, Execution | None] = {}  # for suspects; None: handed over
        self._backoff = Backoff(START_PAUSE_SECONDS_MAX)
        self._is_paused = False  # between two tries to start a process
        self._is_stopping = False
        self._all_ended = asyncio.Event()
        self._attaching: set[asyncio.Task[None]] = set()
        self._checks: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Start a process and block until it has imported the handlers. Raises HandlersError."""
        process = HandlerProcess(self._hello, self._capacity, self._on_change)
        self._processes.append(process)
        self.kinds = process.wait_until_ready().kinds

    def start(self) -> None:
        for process in self._processes:
            self._attach(process)
        self._checks = asyncio.create_task(
            keep_running("worker_handlers", self._check), name="handlers-check"
        )

    @property
    def free(self) -> int:
        slots = sum(one.capacity - one.running for one in self._processes if self._is_usable(one))
        return max(0, slots - len(self._waiting))

    @property
    def _all(self) -> list[HandlerProcess]:
        return [*self._processes, *self._alone]

    @property
    def stalled(self) -> int:
        """The number of processes whose interpreter a handler holds."""
        return sum(process.is_stalled for process in self._all)

    @property
    def running(self) -> int:
        """The number of handlers that run and are waited for."""
        return sum(process.running for process in self._all)

    @property
    def hanging(self) -> int:
        """The number of handlers that were given up and still run."""
        return sum(process.given_up for process in self._all)

    def trouble(self) -> HandlersTrouble | None:
        """Return what is wrong with the handlers now, if anything. Any thread may call."""
        reason = self._trouble_reason()
        if reason is None:
            self._troubled_since = None
            return None
        now = time.monotonic()
        since = self._troubled_since = self._troubled_since or now
        return HandlersTrouble(reason, now - since)

    def _trouble_reason(self) -> str | None:
        if self.problem is not None:
            return f"No handler process is ready: {self.problem}"
        if jobs := [job for one in self._all if one.is_stalled for job in one.begun_jobs()]:
            if len(jobs) == 1:
                return f"The handler of {_named(jobs)} holds the interpreter of its process."
            return f"A handler holds the interpreter, one of {_named(jobs)}; the others wait."
        if jobs := [job for one in self._all for job in one.hanging_jobs()]:
            return (
                f"Handlers ignored their cancel and were given up: {_named(jobs)}. Their process "
                "ends when its other handlers have ended."
            )
        return None

    def note(self, job_id: int) -> str | None:
        """Return a sentence about a job's handler that the log does not have. Any thread may call.

        None if there is nothing to say.
        """
        for process in self._all:
            if process.is_stalled and any(job.id == job_id for job in process.begun_jobs()):
                return (
                    "Its handler, or another one in the same process, holds the interpreter: the "
                    "process has not answered for some seconds."
                )
        return self._notes.get(job_id)

    def execute(
        self, job: ClaimedJob, began: Callable[[], None], progressed: ProgressSink = ignore_progress
    ) -> Execution:
        execution = Execution(job, began, progressed)
        self._waiting.append(execution)
        if not self.able.is_set():
            self._return_waiting()
        self._dispatch()
        return execution

    def cancel(self, execution: Execution) -> None:
        execution.is_cancelled = True
        if any(process.cancel(execution) for process in self._all):
            return
        for queue in (self._waiting, self._suspects):
            if execution in queue:
                queue.remove(execution)
        for process, suspect in self._alone.items():
            if suspect is execution:
                self._alone[process] = None
                process.retire()
        execution.end(not_begun())

    def give_up(self, execution: Execution, reason: str) -> None:
        execution.end(given_up(reason))
        for process in self._all:
            if process.give_up(execution):
                self.given_up[execution.job.kind] += 1
                self._note_given_up(execution.job, reason)
                self._replace_if_hanging(process)
                break
        self._dispatch()

    async def stop(self) -> None:
        self._is_stopping = True
        if self._checks is not None:
            self._checks.cancel()
        for process in self._all:
            process.close()
        if not self._all:
            return
        try:
            await asyncio.wait_for(self._all_ended.wait(), STOP_SECONDS_MAX)
        except asyncio.TimeoutError:
            self.discard()

    def discard(self) -> None:
        """Kill the processes that are left, and block until they have ended."""
        for process in self._all:
            process.kill_and_wait()

    def _dispatch(self) -> None:
        """Give waiting runs to free processes, and start further processes as needed."""
        if self._is_stopping:
            return
        while self._waiting and (process := self._least_busy()) is not None:
            process.run(self._waiting.popleft())
        in_use = [one for one in self._processes if not one.is_retired]
        starting = sum(one.ready is None for one in in_use)
        is_wanted = len(self._waiting) > starting * self._capacity or not in_use
        if is_wanted and not self._is_paused:
            self._start_one()
        for process, suspect in self._alone.items():
            if suspect is not None and process.ready is not None and not process.has_ended:
                self._alone[process] = None
                process.run(suspect)
                process.retire()
        while self._suspects and self._may_start_alone and not self._is_paused:
            self._start_alone(self._suspects.popleft())

    @property
    def _may_start_alone(self) -> bool:
        """True while fewer than ALONE_MAX suspects run, not counting long or stalled ones."""
        starting = sum(
            not one.is_stalled and one.age_seconds < ALONE_SECONDS for one in self._alone
        )
        return starting < ALONE_MAX

    def _least_busy(self) -> HandlerProcess | None:
        """Return the usable process that runs the fewest handlers below its capacity."""
        free = [
            one for one in self._processes if self._is_usable(one) and one.running < one.capacity
        ]
        return min(free, key=lambda one: one.running, default=None)

    def _is_usable(self, process: HandlerProcess) -> bool:
        return process.ready is not None and not process.is_retired and not process.has_ended

    def _start_one(self) -> None:
        if sum(not one.is_retired for one in self._processes) < self._processes_max:
            process = HandlerProcess(self._hello, self._capacity, self._on_change)
            self._processes.append(process)
            self._attach(process)

    def _start_alone(self, suspect: Execution) -> None:
        process = HandlerProcess(self._hello, 1, self._on_change)
        self._alone[process] = suspect
        self._attach(process)

    def _attach(self, process: HandlerProcess) -> None:
        task = asyncio.create_task(process.attach(), name="handlers-attach")
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    def _note_given_up(self, job: ClaimedJob, reason: str) -> None:
        self._notes.pop(job.id, None)
        self._notes[job.id] = f"Attempt {job.attempt}: {reason} It was given up."
        if len(self._notes) > NOTES_MAX:
            del self._notes[next(iter(self._notes))]

    def _replace_if_hanging(self, process: HandlerProcess) -> None:
        if (
            process.given_up < max(1, process.capacity // _CAPACITY_PER_GIVEN_UP)
            or process.is_retired
        ):
            return
        self._replace(process)

    def _replace(self, process: HandlerProcess) -> None:
        """Retire a process, so that another one runs what comes."""
        self._count_replaced(process)
        process.retire()

    def _count_replaced(self, process: HandlerProcess) -> None:
        self.replaced += 1
        _log.warning(
            "handlers_replaced",
            pid=process.pid,
            given_up=process.given_up,
            still_running=process.running,
        )

    def _on_change(self, process: HandlerProcess) -> None:
        if self._is_usable(process):
            self._backoff.reset()
            self.problem = None
            self.able.set()
        if unstarted := process.take_unstarted():
            _log.warning(
                "handlers_lack_threads", pid=process.pid, jobs=[one.job.id for one in unstarted]
            )
            self._run_again(unstarted, self._waiting, process)
            if not process.is_retired:
                self._replace(process)
        if disturbed := process.take_disturbed():
            self._run_again(disturbed, self._suspects, process)
        if process.has_ended:
            self._remove_ended(process)
        self._dispatch()

    def _remove_ended(self, process: HandlerProcess) -> None:
        running = process.take_running()
        if process in self._alone:
            suspect = self._alone.pop(process)
            if suspect is not None:  # it was not started, so it is still a suspect
                self._suspects.appendleft(suspect)
        else:
            self._processes.remove(process)
        if not self._all:
            self._all_ended.set()
        if process.was_closed or self._is_stopping:
            for execution in running:
                execution.end(process.death_result())
            return
        if process.is_abandoned:
            queue = self._suspects if process.holds_suspects else self._waiting
            self._run_again(running, queue, process)
            return
        self.died += 1
        _log.error(
            "handlers_process_died",
            pid=process.pid,
            how=process.exit_description,
            reason=process.refused,
            jobs=[one.job.id for one in running],
            kinds=sorted({one.job.kind for one in running}),
        )
        if process.ready is None:
            self.problem = (
                process.refused or f"The process for handlers {process.exit_description}."
            )
            self._pause()
            if not any(map(self._is_usable, self._processes)):
                self._return_waiting()
        if len(running) == 1 and not process.given_up:
            running[0].end(process.death_result())
        else:
            # One of them ended the process: each is run alone, in the same attempt, to find which.
            # The others lose the time that they ran and nothing else.
            self._run_again(running, self._suspects, process)

    def _run_again(
        self, running: list[Execution], queue: deque[Execution], process: HandlerProcess
    ) -> None:
        for execution in running:
            if execution.is_cancelled:
                execution.end(process.death_result())
            elif execution.begun_at is None:  # it had not begun, so it did no harm
                self._waiting.append(execution)
            else:
                queue.append(execution)
        self._return_late_jobs()

    def _return_late_jobs(self) -> None:
        """Return jobs that have used up their time here, so that another attempt has all of it. A
        suspect's next attempt is made alone.
        """
        for queue in (self._waiting, self._suspects):
            for execution in [one for one in queue if not self._has_time(one)]:
                queue.remove(execution)
                is_suspect = queue is self._suspects
                execution.end(RunResult(is_returned=True, is_suspect=is_suspect))

    def _has_time(self, execution: Execution) -> bool:
        """Return False if a second run in the same attempt would have much less than the first."""
        bound, begun_at = timeout_of(execution.job, self), execution.begun_at
        if bound is None or begun_at is None:
            return True
        return time.monotonic() - begun_at < bound * _USED_MAX

    def _return_waiting(self) -> None:
        """Return all waiting jobs to the queue, and accept none until a process is ready."""
        self.able.clear()
        for queue in (self._waiting, self._suspects):
            while queue:
                is_suspect = queue is self._suspects
                queue.popleft().end(RunResult(is_returned=True, is_suspect=is_suspect))

    def _pause(self) -> None:
        """Start no process for a while, after one that ended before it was ready."""
        self._is_paused = True
        asyncio.get_running_loop().call_later(self._backoff.next_pause(), self._resume)

    def _resume(self) -> None:
        self._is_paused = False
        self._dispatch()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._return_late_jobs()
            for process in self._all:
                process.check()
                if process.is_stalled:
                    self._unblock_others(process)
            self._return_jobs_while_importing()
            if self._suspects:
                self._dispatch()

    def _return_jobs_while_importing(self) -> None:
        """Return waiting jobs while imports take long, since other workers may run them."""
        if not self.able.is_set() or any(map(self._is_usable, self._processes)):
            return
        starting = [one for one in self._processes if one.ready is None and not one.has_ended]
        if starting and starting[0].age_seconds > IMPORT_LOG_SECONDS:
            self.problem = f"The handlers are not imported after {IMPORT_LOG_SECONDS:g} s."
            _log.warning("handlers_importing", pid=starting[0].pid, given_back=len(self._waiting))
            self._return_waiting()

    def _unblock_others(self, process: HandlerProcess) -> None:
        """Act on a handler that holds the interpreter of its process.

        Other jobs begin in another process. If the handler was given up, the others of its process
        are run again elsewhere at once. If it may be one without a time-out, all are run again
        after HELD_SECONDS_MAX, each alone, so that it blocks no others.
        """
        if process.is_abandoned:
            return
        if process.blocks_others:
            self._count_replaced(process)
            process.abandon()
            return
        if process.capacity > 1 and not process.is_retired:
            self._replace(process)
            self._dispatch()
        is_bounded = all(timeout_of(job, self) is not None for job in process.begun_jobs())
        if (
            process.running > 1
            and process.silent_seconds >= HELD_SECONDS_MAX
            and not is_bounded  # else the first time-out gives the handler up
        ):
            _log.warning(
                "handlers_run_alone",
                pid=process.pid,
                silent_seconds=round(process.silent_seconds, 1),
                jobs=[job.id for job in process.begun_jobs()],
            )
            process.abandon(holds_suspects=True)


def _named(jobs: list[ClaimedJob]) -> str:
    names = [f"job {job.id} of kind {job.kind!r}" for job in jobs[:_NAMED_MAX]]
    return ", ".join(names) + (", …" if len(jobs) > _NAMED_MAX else "")


@contextmanager
def handler_pool(
    hello: HandlerHello, concurrency: int, *, is_one_each: bool = False
) -> Iterator[HandlerPool]:
    """Yield a pool with the handlers imported, and end its processes at last.

    Raises HandlersError.
    """
    processes = HandlerPool(hello, concurrency, is_one_each=is_one_each)
    try:
        processes.prepare()
        yield processes
    finally:
        processes.discard()
