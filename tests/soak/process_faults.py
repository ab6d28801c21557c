"""Faults of workers, handlers, applications and the archive: frequent, since they are cheap."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from tests.soak.programs import Archiver, Program, Programs


class ProcessFaults:
    """Starts the programs in a thread and breaks them until `mend`; `stop` ends the thread, and the
    programs with it.
    """

    def __init__(self, programs: Programs, archiver: Archiver, chance: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.timeline: list[tuple[int, int, str]] = []  # as that of `Faults`
        self.bad_ends: list[str] = []
        self._programs = programs
        self._archiver = archiver
        self._chance = chance
        self._frozen: list[tuple[float, int]] = []  # when to resume, by the monotonic clock; pid
        self._mending = threading.Event()
        self._mended = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def mend(self) -> None:
        """Break nothing more; return when all programs run."""
        self._mending.set()
        self._mended.wait()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        programs, chance = self._programs, self._chance
        for program in programs.all:
            program.start()
        kinds: dict[str, tuple[float, Callable[[], bool]]] = {
            "HTTP worker killed": (8.0, lambda: self._kill(programs.http_workers)),
            "worker killed": (3.0, lambda: self._kill(programs.workers)),
            "handlers killed": (3.0, lambda: self._signal_handlers(signal.SIGKILL)),
            "application killed": (3.0, lambda: self._kill(programs.applications)),
            "archive killed": (1.0, self._archiver.kill),
            "HTTP worker frozen": (1.0, lambda: self._freeze(programs.http_workers)),
            "worker frozen": (0.7, lambda: self._freeze(programs.workers)),
            "handlers frozen": (0.7, lambda: self._signal_handlers(signal.SIGSTOP)),
            "application frozen": (0.5, lambda: self._freeze(programs.applications)),
            "worker restarted": (0.5, self._restart_worker),
        }
        names, weights = list(kinds), [weight for weight, _ in kinds.values()]
        while not self._mending.wait(chance.uniform(0.2, 1.4)):
            self._resume(time.monotonic())
            [name] = chance.choices(names, weights)
            began = time.time_ns() // 1000
            if kinds[name][1]():
                self.counts[name] += 1
                self.timeline.append((began, time.time_ns() // 1000, name))
        self._resume(float("inf"))
        for program in programs.all:
            if not program.is_alive:
                program.start()
        self._mended.set()
        self._stopping.wait()
        for program in programs.all:
            program.kill()

    def _kill(self, programs: list[Program]) -> bool:
        program = self._chance.choice(programs)
        program.kill()
        program.start()
        return True

    def _freeze(self, programs: list[Program]) -> bool:
        program = self._chance.choice(programs)
        program.send_signal(signal.SIGSTOP)
        self._resume_later(program.pid)
        return True

    def _signal_handlers(self, number: int) -> bool:
        """Signal the process that runs a worker's handlers; return False if it has none now."""
        children = self._chance.choice(self._programs.workers).children()
        if not children:
            return False
        child = self._chance.choice(children)
        with suppress(ProcessLookupError):
            os.kill(child, number)
            if number == signal.SIGSTOP:
                self._resume_later(child)
        return True

    def _restart_worker(self) -> bool:
        program = self._chance.choice(self._programs.workers)
        self._resume(float("inf"))
        has_started = program.has_written(f"/{program.pid}/")  # its name, once it claims
        code = program.terminate()
        if has_started and code != 0:
            self.bad_ends.append(f"{program.name} ended with {code} after SIGTERM")
        program.start()
        return True

    def _resume_later(self, pid: int) -> None:
        """Some are frozen for longer than a lease."""
        self._frozen.append((time.monotonic() + self._chance.uniform(0.5, 12), pid))

    def _resume(self, now: float) -> None:
        for at, pid in self._frozen:
            if at <= now:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._frozen = [one for one in self._frozen if one[0] > now]
