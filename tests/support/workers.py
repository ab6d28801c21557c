"""`fairlog worker` in a process of its own, to stop, freeze and kill; and the log it left."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from domain.language.events import Recorded
from tests.support.server import STOP_SECONDS_MAX, ServerFailed, ending_with_us, without_settings
from tests.support.waiting import wait_until

_FAIRLOG = Path(sys.executable).with_name("fairlog")
_MANY = 1_000_000_000


class WorkerProcess:
    """A worker for the server at `url`. A context manager; it ends with the thread that made it."""

    def __init__(self, url: str, *options: str) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="fairlog-worker-"))
        self._command = [*ending_with_us(), str(_FAIRLOG), "worker", "--server", url, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def output(self) -> str:
        file = self._home / "output.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Return at once: it needs a second until it claims."""
        with (self._home / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._home,
                env=without_settings(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def has_died(self) -> bool:
        return self._running().poll() is not None

    def kill(self) -> None:
        self._running().kill()
        self._running().wait()
        self._process = None

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); return when it has. Raises ServerFailed unless it ends well."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"no end within {STOP_SECONDS_MAX} s\n{self.output}") from None
        self._process = None
        if code != 0:
            raise ServerFailed(f"it ended with {code}\n{self.output}")

    def wait_until_started(self, times: int = 1) -> None:
        wait_until(lambda: self.output.count("worker_started") >= times, "the worker has started")

    def freeze(self) -> None:
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "it does not run"
        return self._process


def log_at(database_url: str) -> Sequence[Recorded]:
    """Every event, in order."""
    database = Database(database_url)
    try:
        with database.read() as connection:
            return SqlEventLog(database).read(connection, 0, _MANY)
    finally:
        database.close()
