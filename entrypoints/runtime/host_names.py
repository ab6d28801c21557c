"""By which names a server may be asked: the header Host.

A page of another site can have its own name point to 127.0.0.1 ("DNS rebinding"). Its browser then
takes this server for that site, and lets the page read and change everything.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final

_HOST: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::[0-9]{1,5})?")


def hosts_of(host: str, allowed: str) -> frozenset[str] | None:
    """Return the names beside those of loopback for a server on `host`; None: any name will do.

    `allowed` is the setting `allowed_hosts`. On other addresses than loopback, which is insecure as
    it is, names matter only where some are given.
    """
    if not allowed and not is_loopback(host):
        return None
    names = (host, *allowed.split(","))
    return frozenset(name.strip("[]").lower() for name in names if name)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache
def is_asked_by_name(host: bytes, names: frozenset[str]) -> bool:
    """Say whether a Host header names this server."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].decode().strip("[]")
    return name in names or name.endswith(".localhost") or is_loopback(name)
