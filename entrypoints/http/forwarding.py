"""Forwarded requests: the client's address, the scheme and the paths' prefix, as a proxy says.

Only X-Forwarded-For, -Proto and -Prefix are read. If the header Forwarded (RFC 7239) were read too,
a proxy that sets only one of them would pass on what the client wrote into the other.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PREFIX_FIELD: Final = "fairlog_prefix"  # of a request's scope
_PREFIX: Final = re.compile(r"(?=.{2,100}$)(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


class TrustedProxies:
    """The proxies in front of a server. `networks` is the setting `trusted_proxies`."""

    def __init__(self, networks: str) -> None:
        self._networks = [ipaddress.ip_network(one) for one in networks.split(",") if one]

    def apply(self, scope: Any) -> None:  # noqa: ANN401 (ASGI's shape)
        """Replace a request's client and scheme, and set its prefix, as the proxies say.

        Does nothing if the request does not come from one of them.
        """
        peer = scope.get("client")
        if not self._networks or peer is None or not self._is_trusted(_address(peer[0])):
            return
        fields = dict(scope["headers"])
        chain = b",".join(
            value for name, value in scope["headers"] if name == b"x-forwarded-for"
        ).decode("latin-1")
        scope["client"] = (self._client(peer[0], chain), 0)
        scheme = fields.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower()
        if scheme in {b"http", b"https"}:
            scope["scheme"] = scheme.decode()
        prefix = fields.get(b"x-forwarded-prefix", b"").decode("latin-1").rstrip("/")
        if _PREFIX.fullmatch(prefix):
            scope[_PREFIX_FIELD] = prefix

    def _client(self, peer: str, chain: str) -> str:
        """Return the rightmost address of a chain that is no trusted proxy's.

        Each proxy appends the address that it was called from, so what stands further left may be
        an invention of the client. If an entry is no address, the proxy to its right counts.
        """
        client = peer
        for entry in reversed([one for one in chain.split(",") if one.strip()]):
            address = _address(entry.strip())
            if address is None:
                break
            client = str(address)
            if not self._is_trusted(address):
                break
        return client

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def prefix_of(scope: Mapping[str, Any]) -> str:
    """Return what links to the server's own paths begin with, like "/fairlog"; mostly empty."""
    prefix: str = scope.get(_PREFIX_FIELD, "")
    return prefix


def client_of(scope: Mapping[str, Any]) -> str | None:
    """Return the address of a request's client, as trusted proxies say; None if it has none."""
    client = scope.get("client")
    return client[0] if client else None


def _address(text: str) -> Address | None:
    """Parse an address, with or without a port; None if it is none.

    An IPv4 address that a socket of IPv6 shows as ::ffff:a.b.c.d is returned as IPv4.
    """
    if found := _WITH_PORT.fullmatch(text):
        text = found[1] or found[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
