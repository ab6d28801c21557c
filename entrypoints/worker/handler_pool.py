"""The processes in which a worker runs its handlers.

A handler may hang, hold the interpreter, or end its process. None of that reaches the worker, which
claims, keeps leases and reports in a process of its own, without any code of the user's.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from adapters.supervision import Part, Trouble, keep_running
from domain.language.identifiers import JobId, Kind
from entrypoints.service.views import ClaimedJob
from entrypoints.worker.backoff import Backoff
from entrypoints.worker.execution import Execution, RunResult, given_up, not_begun, timeout_of
from entrypoints.worker.handler_process import IMPORT_LOG_SECONDS, HandlerProcess
from entrypoints.worker.handler_protocol import HandlerHello

CHECK_SECONDS: Final = 1.0
START_PAUSE_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 3.0
NOTES_MAX: Final = 1000
_NAMED_MAX: Final = 5
ALONE_MAX: Final = 2  # processes that are started at once to run one suspect each
ALONE_SECONDS: Final = 10.0  # until another may be started beside one
# A handler may keep those beside it from going on for so long; then each is run alone.
HELD_SECONDS_MAX: Final = 30.0
# A process is replaced when so many of its handlers were given up: a quarter of what it runs at
# once, at least one. Those that it still runs are let end; the hanging ones end with the process.
_GIVEN_UP_PER_PROCESS: Final = 4
_USED_MAX: Final = 0.05  # of its time that an attempt may have had when it is run again

_log = structlog.get_logger()


class HandlerPool:
    """An `Executor`. `prepare` it before the event loop, `start` it there.

    One process runs `concurrency` handlers at once; or, with `is_one_each`, up to `concurrency`
    processes one each, so that a handler that takes no notice of its end is killed alone.
    """

    def __init__(self, hello: HandlerHello, concurrency: int, *, is_one_each: bool = False) -> None:
        self.kinds: Mapping[Kind, float | None] = {}
        self.given_up: Counter[Kind] = Counter()  # handlers that did not end, by kind
        self.replaced = 0  # processes, because of those
        self.died = 0  # processes, of themselves
        self.problem: str | None = None  # why no process can be started
        self.able = asyncio.Event()
        self.able.set()
        self._troubled_since: float | None = None  # time.monotonic()
        self._notes: dict[JobId, str] = {}  # of handlers that were given up, the latest last
        self._hello = hello
        self._capacity = 1 if is_one_each else concurrency
        self._processes_max = concurrency if is_one_each else 1
        self._processes: list[HandlerProcess] = []
        self._waiting: deque[Execution] = deque()  # no process is free yet
        self._suspects: deque[Execution] = deque()  # each is run alone
        self._alone: dict[HandlerProcess, Execution | None] = {}  # with one that has not begun
        self._backoff = Backoff(START_PAUSE_SECONDS_MAX)
        self._is_paused = False  # between two tries to start a process
        self._is_stopping = False
        self._all_ended = asyncio.Event()
        self._attaching: set[asyncio.Task[None]] = set()
        self._checks: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Import the handlers, in another process. Blocks. Raises HandlersError."""
        process = HandlerProcess(self._hello, self._capacity, self._changed)
        self._processes.append(process)
        self.kinds = process.wait_until_ready().kinds

    def start(self) -> None:
        for process in self._processes:
            self._attach(process)
        self._checks = asyncio.create_task(
            keep_running(Part("worker_handlers"), self._check, heals=True), name="handlers-check"
        )

    @property
    def free(self) -> int:
        room = sum(one.capacity - one.running for one in self._processes if self._is_usable(one))
        return max(0, room - len(self._waiting))

    @property
    def stalled(self) -> int:
        """Processes whose interpreter a handler holds."""
        return sum(process.is_stalled for process in (*self._processes, *self._alone))

    @property
    def running(self) -> int:
        return sum(process.running for process in (*self._processes, *self._alone))

    @property
    def hanging(self) -> int:
        """Handlers that were given up and still run."""
        return sum(process.given_up for process in (*self._processes, *self._alone))

    def trouble(self) -> Trouble | None:
        """What is wrong with the handlers now; any thread may ask."""
        reason = self._what_is_wrong()
        if reason is None:
            self._troubled_since = None
            return None
        now = time.monotonic()
        since = self._troubled_since = self._troubled_since or now
        return Trouble("handlers", reason, now - since)

    def _what_is_wrong(self) -> str | None:
        if self.problem is not None:
            return f"No process for handlers is ready: {self.problem}"
        processes = (*self._processes, *self._alone)
        if jobs := [job for one in processes if one.is_stalled for job in one.begun()]:
            if len(jobs) == 1:
                return f"The handler of {_named(jobs)} holds the interpreter of its process."
            return f"A handler holds the interpreter, one of {_named(jobs)}; the others wait."
        if jobs := [job for one in processes for job in one.hanging()]:
            return (
                f"Handlers did not end when they were told to, and were given up: {_named(jobs)}. "
                "Their process ends when what else it runs has ended."
            )
        return None

    def note(self, job_id: JobId) -> str | None:
        """What is known here of the job's handler that the log does not tell, in a sentence."""
        for process in (*self._processes, *self._alone):
            if process.is_stalled and any(job.id == job_id for job in process.begun()):
                return (
                    "Its handler, or one beside it, holds the interpreter of their process, which "
                    "has not answered for some seconds."
                )
        return self._notes.get(job_id)

    def execute(self, job: ClaimedJob, began: Callable[[], None]) -> Execution:
        execution = Execution(job, began)
        self._waiting.append(execution)
        if not self.able.is_set():
            self._return_waiting()
        self._dispatch()
        return execution

    def cancel(self, execution: Execution) -> None:
        execution.is_cancelled = True
        if any(process.cancel(execution) for process in (*self._processes, *self._alone)):
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
        for process in (*self._processes, *self._alone):
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
        for process in (*self._processes, *self._alone):
            process.close()
        if not self._processes and not self._alone:
            return
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self._all_ended.wait()
        except TimeoutError:
            for process in (*self._processes, *self._alone):
                process.kill_and_wait()

    def discard(self) -> None:
        """End what `stop` has not ended, or was never called for. Blocks; at once."""
        for process in (*self._processes, *self._alone):
            process.kill_and_wait()

    def _dispatch(self) -> None:
        """Hand out what waits to the processes that are free; start one where none is, or none is
        left for what comes next.
        """
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
        """One that takes long, or holds its interpreter, keeps no other suspect waiting."""
        starting = sum(
            not one.is_stalled and one.age_seconds < ALONE_SECONDS for one in self._alone
        )
        return starting < ALONE_MAX

    def _least_busy(self) -> HandlerProcess | None:
        """The one with least to do."""
        free = [
            one for one in self._processes if self._is_usable(one) and one.running < one.capacity
        ]
        return min(free, key=lambda one: one.running, default=None)

    def _is_usable(self, process: HandlerProcess) -> bool:
        return process.ready is not None and not process.is_retired and not process.has_ended

    def _start_one(self) -> None:
        if sum(not one.is_retired for one in self._processes) < self._processes_max:
            process = HandlerProcess(self._hello, self._capacity, self._changed)
            self._processes.append(process)
            self._attach(process)

    def _start_alone(self, suspect: Execution) -> None:
        process = HandlerProcess(self._hello, 1, self._changed)
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
            process.given_up < max(1, process.capacity // _GIVEN_UP_PER_PROCESS)
            or process.is_retired
        ):
            return
        self._replace(process)

    def _replace(self, process: HandlerProcess) -> None:
        """Have it end when what it runs has ended, and another one run what comes."""
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

    def _changed(self, process: HandlerProcess) -> None:
        if self._is_usable(process):
            self._backoff.reset()
            self.problem = None
            self.able.set()
        if left := process.take_unstarted():
            _log.warning(
                "handlers_lack_threads", pid=process.pid, jobs=[one.job.id for one in left]
            )
            self._run_again(left, self._waiting, process)
            if not process.is_retired:
                self._replace(process)
        if disturbed := process.take_disturbed():
            self._run_again(disturbed, self._suspects, process)
        if process.has_ended:
            self._remove_ended(process)
        self._dispatch()

    def _remove_ended(self, process: HandlerProcess) -> None:
        in_hand = process.take_running()
        if process in self._alone:
            suspect = self._alone.pop(process)
            if suspect is not None:  # it never began: it is a suspect still
                self._suspects.appendleft(suspect)
        else:
            self._processes.remove(process)
        if not self._processes and not self._alone:
            self._all_ended.set()
        if process.was_closed or self._is_stopping:
            for execution in in_hand:
                execution.end(process.death_result())
            return
        if process.is_abandoned:
            queue = self._suspects if process.holds_suspects else self._waiting
            self._run_again(in_hand, queue, process)
            return
        self.died += 1
        _log.error(
            "handlers_process_died",
            pid=process.pid,
            how=process.exit_description,
            reason=process.refused,
            jobs=[one.job.id for one in in_hand],
            kinds=sorted({one.job.kind for one in in_hand}),
        )
        if process.ready is None:
            self.problem = (
                process.refused or f"The process for handlers {process.exit_description}."
            )
            self._pause()
            if not any(map(self._is_usable, self._processes)):
                self._return_waiting()
        if len(in_hand) == 1 and not process.given_up:
            in_hand[0].end(process.death_result())
        else:
            # One of them ended the process of all: each is run alone, in the same attempt, to see
            # which. The others lose their time and nothing else.
            self._run_again(in_hand, self._suspects, process)

    def _run_again(
        self, in_hand: list[Execution], queue: deque[Execution], process: HandlerProcess
    ) -> None:
        for execution in in_hand:
            if execution.is_cancelled:
                execution.end(process.death_result())
            elif execution.begun_at is None:  # so it is not the one
                self._waiting.append(execution)
            else:
                queue.append(execution)
        self._return_late_jobs()

    def _return_late_jobs(self) -> None:
        """They would time out here, having run for less than their time: another attempt has all
        of it, which a suspect makes alone.
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
        """Keep from other workers nothing that waits here for a process which cannot be started."""
        self.able.clear()
        for queue in (self._waiting, self._suspects):
            while queue:
                is_suspect = queue is self._suspects
                queue.popleft().end(RunResult(is_returned=True, is_suspect=is_suspect))

    def _pause(self) -> None:
        """A process that ends before it is ready is not started again at once."""
        self._is_paused = True
        asyncio.get_running_loop().call_later(self._backoff.next_pause(), self._resume)

    def _resume(self) -> None:
        self._is_paused = False
        self._dispatch()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._return_late_jobs()
            for process in (*self._processes, *self._alone):
                process.check()
                if process.is_stalled:
                    self._unblock_others(process)
            self._return_jobs_while_importing()
            if self._suspects:
                self._dispatch()

    def _return_jobs_while_importing(self) -> None:
        """Imports that take long, perhaps for ever, keep no job from workers that are done."""
        if not self.able.is_set() or any(map(self._is_usable, self._processes)):
            return
        starting = [one for one in self._processes if one.ready is None and not one.has_ended]
        if starting and starting[0].age_seconds > IMPORT_LOG_SECONDS:
            self.problem = f"The handlers are not imported after {IMPORT_LOG_SECONDS:g} s."
            _log.warning("handlers_importing", pid=starting[0].pid, given_back=len(self._waiting))
            self._return_waiting()

    def _unblock_others(self, process: HandlerProcess) -> None:
        """A handler holds the interpreter of this process: what is to begin does so in another. If
        it is one that was given up, nobody knows when those beside it could go on: they are run
        again elsewhere. Where none was, and it may be one without a time-out, all are run again
        after a while, each alone: so that whichever it is takes its time without the others.
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
        is_bounded = all(timeout_of(job, self) is not None for job in process.begun())
        if (
            process.running > 1
            and process.silent_seconds >= HELD_SECONDS_MAX
            and not is_bounded  # or the first of their time-outs has it ended
        ):
            _log.warning(
                "handlers_run_alone",
                pid=process.pid,
                silent_seconds=round(process.silent_seconds, 1),
                jobs=[job.id for job in process.begun()],
            )
            process.abandon(holds_suspects=True)


def _named(jobs: list[ClaimedJob]) -> str:
    names = [f"job {job.id} of kind {job.kind!r}" for job in jobs[:_NAMED_MAX]]
    return ", ".join(names) + (", …" if len(jobs) > _NAMED_MAX else "")


@contextmanager
def handler_pool(
    hello: HandlerHello, concurrency: int, *, is_one_each: bool = False
) -> Iterator[HandlerPool]:
    """With the handlers imported; at the end no process is left. Raises HandlersError."""
    processes = HandlerPool(hello, concurrency, is_one_each=is_one_each)
    try:
        processes.prepare()
        yield processes
    finally:
        processes.discard()
