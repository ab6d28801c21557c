"""A process of our own that does a part of the work, as long as this one wants it.

What it says comes pickled over a pipe that nobody else can have: both are one program. It ends with
this process, however that ends: its next word finds the pipe closed.
"""

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final

from domain.language.errors import FairlogError, fresh_copy

STOP_SECONDS_MAX: Final = 15.0  # a word of a check, or a batch (3 s) and the few that wait
_ENDED: Final = "The process beside this one has ended; the lines above may say why."


def program(module: str) -> Sequence[str]:
    """The command for a module of ours. It looks for no module in the current directory, which is
    the user's; `python -m` alone would look there first.
    """
    return sys.executable, "-P", "-m", module


@contextmanager
def run_child(command: Sequence[str], begin: object) -> Iterator[Iterator[Any]]:
    """Run the process and hear what it says; `begin` is what it is told first.

    The number of its end of the pipe is put behind `command`. What it says raises the error that
    ended it, if one did.
    """
    ours, theirs = Pipe()
    with ours:
        with theirs:
            process = started(command, theirs.fileno())
        try:
            with contextlib.suppress(ConnectionError):  # it is gone, which hearing it tells too
                ours.send(begin)
            yield _messages(ours)
        finally:
            ours.close()
            see_end(process)


def started(command: Sequence[str], end: int) -> subprocess.Popen[bytes]:
    """Run a process of ours, which inherits one end of what joins it with this one: a number that
    is put behind `command`.
    """
    return subprocess.Popen(  # noqa: S603 (our own interpreter)
        [*command, str(end)], stdin=subprocess.DEVNULL, pass_fds=[end]
    )


def see_end(process: subprocess.Popen[bytes], seconds_max: float = STOP_SECONDS_MAX) -> None:
    """Of one that was told to end, or whose other end is closed; it is killed when it does not."""
    try:
        process.wait(seconds_max)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _messages(connection: Connection) -> Iterator[Any]:
    while True:
        try:
            word = connection.recv()
        except (EOFError, ConnectionError):
            raise FairlogError(_ENDED) from None
        if isinstance(word, Exception):
            raise fresh_copy(word)
        yield word


def serve_parent(connection: Connection, words: Callable[[Any], Iterator[object]]) -> None:
    """The other process's side: say what `words` gives, told what came first, or its error."""
    with contextlib.suppress(EOFError, ConnectionError):  # nobody listens any more
        begin = connection.recv()
        try:
            for word in words(begin):
                connection.send(word)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 (it is raised where it is heard)
            connection.send(_safe(error))


def _safe(error: Exception) -> Exception:
    """The error itself, if it can be sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)
    except Exception:  # noqa: BLE001 (an accident that holds anything)
        return FairlogError(repr(error))
    return error
