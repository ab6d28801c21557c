"""Limits on requests with wrong API keys, by the address that they come from, and their count.

A key cannot be guessed; the limit keeps a client with a wrong one from costing more than a short
answer. Their number is recorded in the log once a minute, so that a flood of them does not fill it.
The addresses are not: the log keeps what it has for ever.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_network
from typing import Final

import structlog

from domain.language.commands import ReportWrongKeys
from domain.language.errors import FairlogError

WRONG_KEYS_MAX: Final = 30  # from one address, in WINDOW_SECONDS
WINDOW_SECONDS: Final = 60.0
ADDRESSES_MAX: Final = 10_000  # beyond it, the one counted longest ago is dropped
REPORT_SECONDS: Final = 60.0  # between two reports
_LINE_SECONDS: Final = 10.0  # between two log lines about wrong keys
_PREFIX_6: Final = 64  # bits of an IPv6 address that count: one client has all addresses behind

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
        self._unreported: ReportWrongKeys | None = None
        self._reported_addresses: set[str] = set()  # since the latest report
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # its start, and number
        self._logged_at = float("-inf")
        self._logged_total = 0

    def is_limited(self, client: str) -> bool:
        """Return True if a client's address has sent too many lately."""
        if not self._windows:
            return False
        start, count = self._windows.get(_network(client), (0.0, 0))
        return count > WRONG_KEYS_MAX and self._now() - start < WINDOW_SECONDS

    def refused(self, client: str, at: datetime) -> None:
        """Count one of a client's address, at a time of the log.

        Raises `TooManyWrongKeys` if the address has sent too many.
        """
        self.total += 1
        now = self._now()
        address = _network(client)
        self._add_to_report(address, at)
        self._log_at_times(now, address)
        start, count = self._windows.pop(address, (now, 0))
        if now - start >= WINDOW_SECONDS:
            start, count = now, 0
        self._windows[address] = start, count + 1
        if len(self._windows) > ADDRESSES_MAX:
            self._windows.popitem(last=False)
        if count >= WRONG_KEYS_MAX:
            raise TooManyWrongKeys(start + WINDOW_SECONDS - now)

    def take_report(self) -> ReportWrongKeys | None:
        """Return what was counted since the last call; None if nothing was."""
        report, self._unreported = self._unreported, None
        self._reported_addresses.clear()
        return report

    def _add_to_report(self, address: str, at: datetime) -> None:
        if len(self._reported_addresses) < ADDRESSES_MAX:
            self._reported_addresses.add(address)
        earlier = self._unreported
        self._unreported = ReportWrongKeys(
            count=1 if earlier is None else earlier.count + 1,
            addresses=len(self._reported_addresses),
            first_at=at if earlier is None else earlier.first_at,
            last_at=at if earlier is None else max(at, earlier.last_at),
        )

    def _log_at_times(self, now: float, address: str) -> None:
        if now - self._logged_at < _LINE_SECONDS:
            return
        _log.warning("wrong_keys", count=self.total - self._logged_total, latest_from=address)
        self._logged_at, self._logged_total = now, self.total


def _network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        return str(ip_network((address.partition("%")[0], _PREFIX_6), strict=False))
    except ValueError:
        return address
