"""`fairlog` in processes that are forked with all its modules imported.

Importing takes half a second of processor time, which is most of what a short command costs and a
third of the start of a server. What a fresh interpreter does is seen by the tests of the terminal's
welcome, of `make run`, of packages and of deployment.
"""

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final, NoReturn

from entrypoints.cli import main

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class ForkedCommand:
    """A running `fairlog` with these arguments, as `subprocess.Popen` has it.

    Both streams are appended to files. It ends with the process that started it, at the latest.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: Path,
        errors: Path,
    ) -> None:
        self._arguments = arguments
        self._process = _context().Process(
            target=_run, args=(tuple(arguments), cwd, dict(env), output, errors)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_forked(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], seconds_max: float
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, as `subprocess.run` does. Raises `subprocess.TimeoutExpired`."""
    files = [cwd.parent / f"{cwd.name}.{name}" for name in ("output", "errors")]
    command = ForkedCommand(arguments, cwd=cwd, env=env, output=files[0], errors=files[1])
    try:
        code = command.wait(seconds_max)
    finally:
        command.kill()
    output, errors = (file.read_text() for file in files)
    for file in files:
        file.unlink()
    return subprocess.CompletedProcess(["fairlog", *arguments], code, output, errors)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.forked_modules"])
    return context


def _run(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str], output: Path, errors: Path
) -> NoReturn:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    for stream, file in ((1, output), (2, errors)):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["fairlog", *arguments]
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    threading._shutdown()  # type: ignore[attr-defined]  # as at the end of an interpreter
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
