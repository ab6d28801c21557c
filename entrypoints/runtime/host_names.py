"""The host names that a server accepts in the header Host.

A web site can make its own name resolve to this server's address ("DNS rebinding"). The browser
then takes the server for that site, and lets the site's pages read and change everything.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

_HOST: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::[0-9]{1,5})?")


class AcceptedHosts(Struct, frozen=True):
    """The hosts that a server accepts, besides loopback names and addresses."""

    names: frozenset[str]  # in lower case
    any_address: bool  # every IP address too: a site that rebinds needs a name


def hosts_of(host: str, allowed: str) -> AcceptedHosts:
    """Return the hosts that a server accepts which listens on `host`.

    `allowed` is the setting `allowed_hosts`: names separated by commas. A server that listens
    beyond loopback may have addresses that it does not know, so it accepts all of them.
    """
    names = (host, *allowed.split(","))
    return AcceptedHosts(
        frozenset(name.strip("[]").lower() for name in names if name), not is_loopback(host)
    )


def is_loopback(host: str) -> bool:
    """Return True for a loopback address or "localhost"."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


@lru_cache
def is_accepted_host(host: bytes, accepted: AcceptedHosts) -> bool:
    """Return True if a server accepts this value of a Host header."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].decode().strip("[]")
    return (
        name in accepted.names
        or name.endswith(".localhost")
        or is_loopback(name)
        or (accepted.any_address and _is_address(name))
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
