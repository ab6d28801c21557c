"""Interpreter settings for the start of a process, for long ones, and for passes over the log."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

# Shorter than CPython's 5 ms: a thread that needs the interpreter lock waits this long for it.
_SWITCH_SECONDS: Final = 0.0002
# A request makes some hundred objects that end with it. With CPython's threshold of 700, the
# collector would run after every few requests, and over all objects after every 70,000 new ones. A
# rebuild, which keeps many objects, would spend a tenth of its time on that.
_GC_THRESHOLDS: Final = (20_000, 20, 50)
_BACKGROUND_PRIORITY: Final = 10  # as `nice` runs a command


@contextmanager
def importing() -> Iterator[None]:
    """Import modules in the block without garbage collection.

    Their objects live as long as the process. Looking for garbage among them, while they are made
    and at the end, would take a third of the processor time of `fairlog --help`.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def tune_interpreter() -> None:
    """Set the switch interval and the garbage collector. Call it after all imports and wiring."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    tune_collector()


def tune_collector() -> None:
    """Exclude existing objects from garbage collection for ever, and let it pass seldom."""
    gc.freeze()  # these objects live as long as the process
    gc.set_threshold(*_GC_THRESHOLDS)


@contextmanager
def tuned_for_one_pass() -> Iterator[None]:
    """Exclude existing objects from garbage collection for the block, and restore all settings."""
    switch_seconds, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(_SWITCH_SECONDS)
    was_frozen = gc.get_freeze_count() > 0  # at the start of the process
    if not was_frozen:
        gc.freeze()  # without a collection first: with many objects it takes long and frees little
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not was_frozen:
            gc.unfreeze()
        sys.setswitchinterval(switch_seconds)


@contextmanager
def in_background() -> Iterator[None]:
    """Let other processes have the processor first during the block.

    On Linux that holds for the calling thread and those that it starts, elsewhere for the process.
    An account that may not raise the priority again leaves it as it is afterwards.
    """
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(priority, _BACKGROUND_PRIORITY))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, priority)
