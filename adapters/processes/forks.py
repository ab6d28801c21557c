"""What a child that a handler forks must not keep of this process.

`os.fork` and `multiprocessing` copy every open descriptor, close-on-exec or not: the child would
hold the port, the lock and the connections of a server that has died, and a signal to it would
reach the server through the event loop's own descriptor. So each owner of descriptors says here
which they are, and the child has /dev/null in their place: a number that is taken can be closed
once more, by an object that was copied with the rest, without harm to what the child opens.
"""

import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Protocol
from weakref import WeakSet


class Owner(Protocol):
    """Something that has descriptors open for as long as it lives."""

    def descriptors(self) -> Iterable[int]:
        """Those that are open now; a number below 0 stands for one that is closed."""


class _Watch:
    """What the hooks know: there is one a process, and hooks cannot be taken back."""

    def __init__(self) -> None:
        self.owners: WeakSet[Owner] = WeakSet()
        self.is_set_up = False
        self.is_child = False
        self.blocked = threading.local()  # signals that the forking thread had blocked already


_watch: Final = _Watch()
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def keep_from_children(owner: Owner) -> None:
    """Have no forked child keep its descriptors. The owner is forgotten when it is gone."""
    _watch.owners.add(owner)
    if not _watch.is_set_up:
        _watch.is_set_up = True
        os.register_at_fork(
            before=_hold_signals, after_in_parent=_release_signals, after_in_child=_let_go
        )


def end_if_child(error: BaseException | None = None) -> None:
    """End a child that came back out of its handler, by `error` if it raised one: it must not go on
    as a second worker.
    """
    if not _watch.is_child:
        return
    code = error.code if isinstance(error, SystemExit) else error is not None
    os._exit(code if isinstance(code, int) else code is not None)


def _hold_signals() -> None:
    """A signal to a child of this very moment would find the parent's handler, and be lost."""
    _watch.blocked.signals = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _watch.blocked.signals)


def _let_go() -> None:
    _watch.is_child = True
    nothing = os.open(os.devnull, os.O_RDWR)
    for owner in list(_watch.owners):
        with suppress(Exception):  # the fork may have come at any moment of its life
            for descriptor in owner.descriptors():
                if descriptor >= 0:
                    os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    # A signal ends the child, and is not told to the event loop of its parent.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _release_signals()
