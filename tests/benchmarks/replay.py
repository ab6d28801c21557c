"""`python -m tests.benchmarks.replay TASK KIND URL [MORE…]`: a pass over a log, in its own process.

So that its peak memory is its own, and that of the processes that it starts. The result is one line
of JSON.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Final, Self, cast

import msgspec
from msgspec import Struct

from adapters.archive.directory import Archive
from entrypoints.composition import rebuild_projections
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.verification import verify_log
from projections.inline.live import inline_projections
from tests.benchmarks.bare import COLUMNS, open_bare
from tests.benchmarks.filling import Filled, open_service
from tests.benchmarks.site import Kind
from tests.support.repository import ROOT

SECONDS_MAX: Final = 1200.0
_LOOK_SECONDS: Final = 0.05  # between two looks at the memory of other processes

_READ_BY_REBUILD: Final = ("position", "recorded_at", "job_id", "data")


class Pass(Struct, frozen=True):
    events: int
    seconds: float
    peak_mb: float  # of the resident memory of all its processes, in 10^6 bytes

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class ReplayFailed(Exception):
    """The process failed; the message is what it wrote."""


def replay(task: str, filled: Filled, *more: str) -> Pass:
    """Run a task of this module over a log."""
    made = subprocess.run(
        [sys.executable, "-m", __name__, task, filled.kind, filled.url, *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    if made.returncode:
        raise ReplayFailed(f"{task} on {filled.kind}\n{made.stdout}\n{made.stderr}")
    return msgspec.json.decode(made.stdout.splitlines()[-1], type=Pass)


def _scan(columns: tuple[str, ...], kind: Kind, url: str) -> tuple[int, float]:
    with closing(open_bare(kind, url)) as bare:
        started = time.perf_counter()
        return bare.scan(columns), time.perf_counter() - started


def _rebuild(url: str) -> tuple[int, float]:
    """Time a rebuild up to the switch; deleting the earlier generation is not timed."""
    ended: list[float] = []

    def progress(done: int, total: int) -> None:
        if done == total:
            ended.append(time.perf_counter())

    with closing(open_service(url)) as fairlog:
        names = [one.name for one in inline_projections()]
        started = time.perf_counter()
        events = rebuild_projections(fairlog, names, progress)
    return events, ended[-1] - started


def _follow(url: str) -> tuple[int, float]:
    """Rebuild the projections that follow the log."""
    with closing(open_service(url)) as fairlog:
        names = [one.projection.name for one in fairlog.projector_runner.projectors]
        started = time.perf_counter()
        events = rebuild_projections(fairlog, names)
        return events, time.perf_counter() - started


def _verify(url: str) -> tuple[int, float]:
    found: list[object] = []
    with closing(open_service(url)) as fairlog:
        started = time.perf_counter()
        verified = verify_log(fairlog, found.append, lambda _done, _total: None)
        seconds = time.perf_counter() - started
    if not verified.is_clean:
        raise ReplayFailed(f"not clean: {found[:5]}")
    return verified.events, seconds


def _archive(url: str, folder: str, older_than_days: str) -> tuple[int, float]:
    """Archive what is older, from the first read to the last row deleted."""
    with closing(open_service(url)) as fairlog:
        fairlog.writer.start()
        moment = fairlog.read_now(fairlog.log.now) - timedelta(days=int(older_than_days))
        cut = cut_before(fairlog, moment, None)
        started = time.perf_counter()
        done = archive(fairlog, Archive(folder), cut, lambda *_: None)
        return done.last - done.first + 1, time.perf_counter() - started


_TASKS: Final[Mapping[str, Callable[..., tuple[int, float]]]] = {
    "scan-for-rebuild": lambda kind, url: _scan(_READ_BY_REBUILD, kind, url),
    "scan-for-verify": lambda kind, url: _scan(COLUMNS, kind, url),
    "rebuild": lambda _, url: _rebuild(url),
    "follow": lambda _, url: _follow(url),
    "verify": lambda _, url: _verify(url),
    "archive": lambda _, url, *more: _archive(url, *more),
}


def _main(task: str, kind: str, url: str, *more: str) -> None:
    with _Memory() as memory:
        events, seconds = _TASKS[task](cast("Kind", kind), url, *more)
    print(msgspec.json.encode(Pass(events, seconds, memory.peak_mb)).decode())


class _Memory:
    """The peak of this process and of those that it starts, added up.

    Not from getrusage: its peak includes the process that started this one, up to the exec.
    """

    def __init__(self) -> None:
        self._peaks: dict[str, float] = {}  # in MB, by process
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look_again, daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()
        self._look()

    @property
    def peak_mb(self) -> float:
        return sum(self._peaks.values())

    def _look_again(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        own = str(os.getpid())
        for process in (own, *Path(f"/proc/{own}/task/{own}/children").read_text().split()):
            with contextlib.suppress(OSError):  # it has just ended
                for line in Path(f"/proc/{process}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self._peaks[process] = int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    _main(*sys.argv[1:])
