"""Decide how soon a writer process that has ended is started again, and when no more.

The first time at once: a kill, or the end of the machine's memory, says nothing about the next
process. One that ends before it has answered anything probably ends again, so each further one
comes later.
"""

from typing import Final

FAILURES_MAX: Final = 6  # processes in a row that ended before they answered anything
FIRST_PAUSE_SECONDS: Final = 0.5
STEADY_SECONDS: Final = 60.0  # a process that lived for so long has worked


class Restarts:
    """The restarts of the writer process of one server."""

    def __init__(self, first_pause_seconds: float = FIRST_PAUSE_SECONDS) -> None:
        """`first_pause_seconds` come before the second restart in a row, and twice as many before
        each further one.
        """
        self.total = 0  # since the server started
        self._first_pause_seconds = first_pause_seconds
        self._failures = 0  # ends since the latest answer

    def answered(self) -> None:
        """Note that the process works."""
        self._failures = 0

    def next_pause(self, lived_seconds: float) -> float | None:
        """Count the end of a process that lived for so long, and return the seconds to wait before
        the next one; None: too many have failed for another one to be started.
        """
        if lived_seconds >= STEADY_SECONDS:  # nobody may have asked it anything
            self._failures = 0
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            return None
        self.total += 1
        again = self._failures - 2
        return 0.0 if again < 0 else self._first_pause_seconds * 2**again
