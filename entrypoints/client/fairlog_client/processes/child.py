"""Child processes of our own programs, each joined with its parent by a pair of sockets.

The parent sends a hello first; then frames go both ways (see `fairlog_client.processes.frames`). A
child ends with its parent, however that ends: its end of the sockets is closed then.
"""

import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from fairlog_client.processes.frames import encode_frame

# Python 3.10 has no option -P.
_RUN_MODULE = (
    "import sys; del sys.path[0]; import runpy; "
    "runpy.run_module('{}', run_name='__main__', alter_sys=True)"
)
STOP_SECONDS_MAX = 15.0  # a page of a check, or a batch (3 s) and the few that wait


def program(module: str) -> Sequence[str]:
    """Return the command that runs a module of ours.

    It looks for no module in the current directory, which is the user's; `python -m` alone would
    look there first.
    """
    if sys.version_info >= (3, 11):
        return sys.executable, "-P", "-m", module
    else:  # noqa: RET505 (type checkers know that only one of them is there)
        return sys.executable, "-c", _RUN_MODULE.format(module)


class ChildProcess:
    """A process that runs `command`, with the number of its socket as the last argument.

    `new_session` makes it the leader of a process group, so that what it starts can be ended too.
    """

    def __init__(self, command: Sequence[str], hello: Struct, *, new_session: bool = False) -> None:
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=new_session,
                )
            with suppress(ConnectionError):  # it has ended already, which reading shows as well
                self.socket.sendall(encode_frame(hello))
        except BaseException:
            self.socket.close()
            raise

    def stop(self, seconds_max: float = STOP_SECONDS_MAX) -> None:
        """Close the socket, by which the child ends. Kill it if that takes longer than this."""
        with suppress(OSError):  # an event loop has closed it, or the child has ended
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        try:
            self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
