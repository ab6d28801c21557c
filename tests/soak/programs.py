"""The processes of a soak that are killed, frozen and started again: workers and applications."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.soak.answers import Answers
from tests.soak.tenants import HTTP_KINDS, HTTP_WORKER, ORDER_USERS, SETTINGS, Keys
from tests.support.forked import ForkedCommand
from tests.support.repository import ROOT
from tests.support.server import ending_with_us, without_settings

Running = subprocess.Popen[bytes] | ForkedCommand
KEPT_SECONDS: Final = 20  # of the log that an archive leaves, instead of four days
OLDER_THAN_SECONDS: Final = 30
_END_SECONDS_MAX: Final = 40.0


class Program:
    """A process, and how to start it again. The number of starts is the argument of `start`.

    It ends with the thread that started it.
    """

    def __init__(
        self, name: str, start: Callable[[int], Running], output: Path | None = None
    ) -> None:
        self.name = name
        self.output = output
        self.starts = 0
        self._start = start
        self._running: Running | None = None

    def start(self) -> None:
        self.starts += 1
        self._running = self._start(self.starts)

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    @property
    def is_alive(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def terminate(self) -> int | None:
        """Ask it to end (SIGTERM); return its exit code, or None if it did not end in time."""
        assert self._running is not None
        self.send_signal(signal.SIGTERM)
        try:
            return self._running.wait(_END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def has_written(self, text: str) -> bool:
        """Return True if the text is in its output."""
        return self.output is not None and text in self.output.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Return the process ids of its child processes."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=False
        )
        return [int(line) for line in found.stdout.split()]


class Programs:
    """All of them: `http_workers`, `workers` (`fairlog worker`) and `applications`."""

    def __init__(
        self, folder: Path, seed: int, urls: list[str], database_url: str, keys: Keys
    ) -> None:
        self._folder = folder
        self._database_url = database_url
        self.http_workers = [
            Program(f"{HTTP_WORKER}{number}", self._http_worker(urls, number, seed, keys))
            for number in range(4)
        ]
        self.workers = [
            Program(
                f"worker-{number}",
                self._worker(urls, number, keys),
                self._folder / f"worker-{number}.log",
            )
            for number in range(2)
        ]
        self.applications = [
            Program(f"shop-{number}", self._application(number, seed)) for number in range(2)
        ]

    @property
    def all(self) -> list[Program]:
        return [*self.http_workers, *self.workers, *self.applications]

    def collect(self, answers: Answers) -> None:
        """Add what the HTTP workers were answered. The last line of a killed one may be cut."""
        for file in sorted(self._folder.glob(f"{HTTP_WORKER}*.jsonl")):
            for line in file.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    kept = json.loads(line)
                    answers.started += [tuple(one) for one in kept.get("started", ())]
                    answers.outcomes += [tuple(one) for one in kept.get("outcomes", ())]

    def _http_worker(
        self, urls: list[str], number: int, seed: int, keys: Keys
    ) -> Callable[[int], Running]:
        def start(starts: int) -> Running:
            name = f"{HTTP_WORKER}{number}-{starts}"
            file = self._folder / f"{name}.jsonl"
            kinds = ",".join(HTTP_KINDS)
            url = urls[number % len(urls)]
            arguments = [url, name, keys.http_workers, kinds, f"{seed}-{name}", str(file)]
            return self._python("tests.soak.http_worker", *arguments)

        return start

    def _application(self, number: int, seed: int) -> Callable[[int], Running]:
        def start(starts: int) -> Running:
            name = f"{number}-{starts}"
            arguments = [self._database_url, name, f"{seed}-shop-{name}", ",".join(ORDER_USERS)]
            return self._python("tests.soak.application", *arguments)

        return start

    def _worker(self, urls: list[str], number: int, keys: Keys) -> Callable[[int], Running]:
        output = self._folder / f"worker-{number}.log"
        command = [
            "worker",
            "--server",
            urls[number % len(urls)],
            "--no-builtin-handlers",
            "--handlers",
            str(Path(__file__).with_name("handlers.py")),
        ]
        environment = without_settings(os.environ) | {"FAIRLOG_KEY": keys.handlers}

        def start(_: int) -> Running:
            return ForkedCommand(
                command, cwd=self._folder, env=environment, output=output, errors=output
            )

        return start

    def _python(self, module: str, *arguments: str) -> Running:
        return run_module(module, *arguments, output=self._folder / "programs.log")


class Archiver:
    """Runs `fairlog archive` again and again, in a thread."""

    def __init__(self, folder: Path, database_url: str, pause: Callable[[], float]) -> None:
        self.place = folder / "archive"
        self.place.mkdir()
        self.completed = 0
        self.failed = 0  # killed, or while the database was away
        self._output = folder / "archive.log"
        self._database_url = database_url
        self._pause = pause
        self._stopping = threading.Event()
        self._running: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def kill(self) -> bool:
        """Return False if none runs now."""
        running = self._running
        if running is None or running.poll() is not None:
            return False
        running.kill()
        return True

    def stop(self) -> None:
        """Let the archive that runs end, and begin no other."""
        self._stopping.set()
        self._thread.join()

    def run_once(self) -> bool:
        """Return False if it failed."""
        running = self._running = run_module(
            "tests.soak.archiving",
            str(KEPT_SECONDS),
            "--database-url",
            self._database_url,
            "--older-than",
            f"{OLDER_THAN_SECONDS}s",
            "--to",
            str(self.place),
            output=self._output,
        )
        is_done = running.wait() == 0
        self.completed += is_done
        self.failed += not is_done
        return is_done

    def _run(self) -> None:
        while not self._stopping.wait(self._pause()):
            self.run_once()


def fairlog_environment() -> dict[str, str]:
    """Return an environment in which the soak's settings hold."""
    settings = {f"FAIRLOG_{name.upper()}": str(value) for name, value in SETTINGS.items()}
    return without_settings(os.environ) | settings


def run_module(module: str, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
    with output.open("ab") as file:
        return subprocess.Popen(
            [*ending_with_us(), sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=fairlog_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="fairlog-soak-")
