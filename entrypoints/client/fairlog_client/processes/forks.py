"""Descriptors that a child which a handler forks must not inherit.

`os.fork` and `multiprocessing` copy every open descriptor, close-on-exec or not. The child would
keep the port, the lock and the connections of a server that has died, and a signal to it would
reach the server through the event loop's own descriptor. So each owner registers its descriptors
here, and in the child they are replaced by /dev/null. They are not closed: copied objects may
close their numbers again, which by then could belong to files that the child opened.
"""

import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Protocol
from weakref import WeakSet


class Owner(Protocol):
    """An object that has descriptors open as long as it lives."""

    def descriptors(self) -> Iterable[int]:
        """Return the open descriptors; a number below 0 stands for a closed one."""


class _ForkState:
    """The state of the fork hooks: one for each process, since hooks cannot be removed."""

    def __init__(self) -> None:
        self.owners: WeakSet[Owner] = WeakSet()
        self.is_set_up = False
        self.is_child = False
        self.blocked = threading.local()  # signals that the forking thread had already blocked


_state: Final = _ForkState()
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def keep_from_children(owner: Owner) -> None:
    """Replace the owner's descriptors in every forked child. Holds the owner weakly."""
    _state.owners.add(owner)
    if not _state.is_set_up:
        _state.is_set_up = True
        os.register_at_fork(
            before=_block_signals,
            after_in_parent=_restore_signals,
            after_in_child=_replace_descriptors,
        )


def end_if_child(error: BaseException | None = None) -> None:
    """End this process if it is a forked child that left its handler, by `error` if it raised one:
    it must not continue as a second worker.
    """
    if not _state.is_child:
        return
    code = error.code if isinstance(error, SystemExit) else error is not None
    os._exit(code if isinstance(code, int) else code is not None)


def _block_signals() -> None:
    """Block signals: one to a new child would run the parent's handler there, and be lost."""
    _state.blocked.signals = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _restore_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _state.blocked.signals)


def _replace_descriptors() -> None:
    _state.is_child = True
    null = os.open(os.devnull, os.O_RDWR)
    for owner in list(_state.owners):
        with suppress(Exception):  # the fork may have interrupted any method of it
            for descriptor in owner.descriptors():
                if descriptor >= 0:
                    os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    # A signal ends the child, and does not reach the event loop of its parent.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _restore_signals()
