"""Limits on requests with wrong API keys, by the address that they come from.

A key cannot be guessed; the limit keeps a client with a wrong one from costing more than a short
answer, and the log lines from growing with their number.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from domain.language.errors import FairlogError

WRONG_KEYS_MAX: Final = 30  # from one address, in WINDOW_SECONDS
WINDOW_SECONDS: Final = 60.0
ADDRESSES_MAX: Final = 10_000  # beyond it, the one counted longest ago is dropped
_LINE_SECONDS: Final = 10.0  # between two log lines about wrong keys

_log = structlog.get_logger()


class TooManyWrongKeys(FairlogError):
    """An address has sent too many requests with wrong API keys."""

    def __init__(self, seconds: float) -> None:
        super().__init__("Too many requests with wrong keys came from this address; try it later.")
        self.seconds = seconds  # until the address may try again


class WrongKeys:
    """The requests with wrong keys that this process has refused. `now` returns seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._now = now
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # its start, and number
        self._logged_at = float("-inf")
        self._logged_total = 0

    def refused(self, address: str) -> None:
        """Count one. Raises `TooManyWrongKeys` if the address has sent too many."""
        self.total += 1
        now = self._now()
        self._log_at_times(now, address)
        start, count = self._windows.pop(address, (now, 0))
        if now - start >= WINDOW_SECONDS:
            start, count = now, 0
        self._windows[address] = start, count + 1
        if len(self._windows) > ADDRESSES_MAX:
            self._windows.popitem(last=False)
        if count >= WRONG_KEYS_MAX:
            raise TooManyWrongKeys(start + WINDOW_SECONDS - now)

    def _log_at_times(self, now: float, address: str) -> None:
        if now - self._logged_at < _LINE_SECONDS:
            return
        _log.warning("wrong_keys", count=self.total - self._logged_total, latest_from=address)
        self._logged_at, self._logged_total = now, self.total
