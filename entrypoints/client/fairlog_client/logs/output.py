"""A queue of log lines that a thread writes, so that no caller waits for the output.

Standard error can be closed, full, or a pipe that nobody reads. A line that cannot be written is
dropped and counted; the caller that logged it is not affected.
"""

import atexit
import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

LINES_MAX: Final = 10_000  # in the queue
CHARACTERS_MAX: Final = 8 * 1024 * 1024  # of all lines in the queue
FLUSH_SECONDS_MAX: Final = 1.0
_STANDARD_ERROR: Final = 2
_PIECE_BYTES: Final = 64 * 1024


class LogOutput:
    """A bounded queue of lines and the thread that writes them to a file descriptor.

    `write` never blocks and never raises. `dropped` counts the lines that were lost because the
    queue was full or the descriptor refused them.
    """

    def __init__(self, descriptor: int = _STANDARD_ERROR) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._characters = 0
        self._changed = threading.Condition()
        self._is_writing = False
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._reset)

    def write(self, line: str) -> None:
        """Queue a line, which must end with a line break. Drop it if the queue is full."""
        with self._changed:
            size = len(line)
            if len(self._lines) >= LINES_MAX or self._characters + size > CHARACTERS_MAX:
                self.dropped += 1
                return
            self._lines.append(line)
            self._characters += size
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def flush(self, seconds_max: float = FLUSH_SECONDS_MAX) -> bool:
        """Wait until all lines are written, at most `seconds_max`. Return True if they are."""
        deadline = time.monotonic() + seconds_max
        with self._changed:
            while self._lines or self._is_writing:
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None:
                    return False
                self._changed.wait(left)
        return True

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="fairlog-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be started now, or the interpreter is ending
            return
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                lines = list(self._lines)
                self._lines.clear()
                self._characters = 0
                self._is_writing = True
            written = 0
            try:
                for line in lines:
                    written += self._write_out(line)
            finally:
                with self._changed:
                    self.dropped += len(lines) - written
                    self._is_writing = False
                    self._changed.notify_all()

    def _write_out(self, line: str) -> bool:
        """Return False if the descriptor refuses the line, which is then lost."""
        data = memoryview(line.encode("utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._descriptor, data[:_PIECE_BYTES]) :]
            except BlockingIOError:  # another process that shares the pipe made it non-blocking
                with contextlib.suppress(OSError, ValueError):
                    select.select([], [self._descriptor], [], 1.0)
            except OSError:
                return False
        return True

    def _reset(self) -> None:
        """Start with an empty queue and no thread, in a child process after a fork."""
        self._changed = threading.Condition()
        self._lines.clear()
        self._characters = 0
        self._is_writing = False
        self._thread = None


output: Final = LogOutput()  # the queue of this process
atexit.register(output.flush)


class LogHandler(logging.Handler):
    """A handler that writes records of the standard library's logging. It raises nothing."""

    def __init__(self, output: LogOutput) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 (records and their arguments come from any library)
            line = f"library message that cannot be formatted: {record.name} {record.lineno}"
        self._output.write(f"{line}\n")


def reserve_standard_streams() -> None:
    """Open the standard descriptors 0 to 2 that the process was started without.

    Otherwise a socket or a database file could get one of these numbers, and printed text would be
    written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
    # Code that prints (click, warnings, the interpreter at exit) expects these streams to exist.
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (kept open)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (kept open)
