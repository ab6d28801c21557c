"""Exit of the process, which threads and processes that a handler left behind cannot delay."""

import multiprocessing
import os
import sys
import threading
import time
from typing import Final, NoReturn

import structlog

# The limit for threads, processes and exit functions that a handler left behind.
LEFT_SECONDS_MAX: Final = 3.0

_log = structlog.get_logger()


def end(code: int) -> NoReturn:
    """End the process with an exit code.

    The interpreter waits without a limit for threads and processes that were started in it. Their
    jobs have already been returned, so processes are terminated, and the wait is limited to
    LEFT_SECONDS_MAX seconds.
    """
    for child in multiprocessing.active_children():
        _log.warning("handler_process_ended", process=child.name, pid=child.pid)
        child.terminate()
    threading.Thread(target=_exit_after_limit, args=(code,), daemon=True).start()
    sys.exit(code)


def _exit_after_limit(code: int) -> None:
    time.sleep(LEFT_SECONDS_MAX)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
