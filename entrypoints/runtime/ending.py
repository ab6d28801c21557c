"""The end of the process, which nothing that a handler has left behind puts off."""

import multiprocessing
import os
import sys
import threading
import time
from typing import Final, NoReturn

import structlog

# For what a handler has left behind: its threads and processes, and what it has to do at exit.
LEFT_SECONDS_MAX: Final = 3.0

_log = structlog.get_logger()


def end(code: int) -> NoReturn:
    """End the process with an exit code.

    The interpreter waits for threads and processes that were started in it, however long they take.
    By now their jobs have been given back: processes are told to end, and the wait has a limit.
    """
    for child in multiprocessing.active_children():
        _log.warning("handler_process_ended", process=child.name, pid=child.pid)
        child.terminate()
    threading.Thread(target=_end_at_last, args=(code,), daemon=True).start()
    sys.exit(code)


def _end_at_last(code: int) -> None:
    time.sleep(LEFT_SECONDS_MAX)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
