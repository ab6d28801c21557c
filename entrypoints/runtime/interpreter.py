"""How the interpreter runs: in a long-lived process, and on its way through the log."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Shorter than CPython's 5 ms: threads share one interpreter lock, and whoever waits for it waits
# this long.
_SWITCH_SECONDS: Final = 0.0002
# A request makes some hundred objects that are gone with it. CPython's 700 would look for cycles
# after every few of them, and through all that is kept every 70,000. A rebuild, which keeps much,
# would spend a tenth of its time on that.
_GC_THRESHOLDS: Final = (20_000, 20, 50)


def tune_interpreter() -> None:
    """Call it when everything is imported and wired."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # what is there now stays
    gc.set_threshold(*_GC_THRESHOLDS)


@contextmanager
def tuned_for_one_pass() -> Iterator[None]:
    """While it lasts, what is there already is not looked through for cycles again and again."""
    switch_seconds, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()  # without a look at it first: there may be much, and little to be done
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        sys.setswitchinterval(switch_seconds)
