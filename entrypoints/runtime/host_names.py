"""The host names that a server accepts in the header Host.

A web site can make its own name resolve to 127.0.0.1 ("DNS rebinding"). The browser then takes this
server for that site, and lets the site's pages read and change everything.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final

_HOST: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::[0-9]{1,5})?")


def hosts_of(host: str, allowed: str) -> frozenset[str] | None:
    """Return the names that a server accepts in addition to those of loopback, in lower case.

    None means that every name is accepted: `host`, the address that the server listens on, is not a
    loopback address, and `allowed` is empty. `allowed` is the setting `allowed_hosts`: names
    separated by commas.
    """
    if not allowed and not is_loopback(host):
        return None
    names = (host, *allowed.split(","))
    return frozenset(name.strip("[]").lower() for name in names if name)


def is_loopback(host: str) -> bool:
    """Return True for a loopback address or "localhost"."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache
def is_accepted_host(host: bytes, names: frozenset[str]) -> bool:
    """Return True if the value of a Host header is a loopback name or one of `names`."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].decode().strip("[]")
    return name in names or name.endswith(".localhost") or is_loopback(name)
