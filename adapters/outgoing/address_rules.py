"""The addresses that the service sends requests to: public ones, and those that an operator allows.

Who may give a URL must not thereby reach what only the server can: its own ports, the network that
it stands in, a cloud's metadata. So the rules look at the address that a connection is made to,
whatever a URL looked like and whatever a name resolved to.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import httpx
from msgspec import Struct

from adapters.outgoing.errors import AddressRefused
from domain.language.validation import URL_CHARACTERS_MAX

SETTING: Final = "FAIRLOG_CALLBACK_ALLOW"
_PORT_MAX: Final = 65_535

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052; the local 64:ff9b:1::/48 is not global
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")  # RFC 8215


class AddressRules(Struct, frozen=True):
    """Networks and host names that are allowed though they are not public."""

    networks: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()  # in lower case, without a dot at the end

    @classmethod
    def parsed(cls, setting: str) -> "AddressRules":
        """Read the setting `callback_allow`, which has been checked."""
        networks: list[Network] = []
        names: set[str] = set()
        for part in filter(None, setting.split(",")):
            try:
                networks.append(ip_network(part))
            except ValueError:
                names.add(part)
        return cls(tuple(networks), frozenset(names))

    def check(self, host: str, address: str) -> None:
        """Check an address that the host of a URL has resolved to. Raises `AddressRefused`."""
        if host.lower().removesuffix(".") in self.names:
            return
        # A zone (fe80::1%eth0) is of link-local addresses, which are refused without it as well.
        found = ip_address(address.partition("%")[0])
        meant = _mapped(found) or found
        if any(meant in network or found in network for network in self.networks):
            return
        if not is_public(found):
            raise AddressRefused(
                f"{host} is or resolves to an address that is not public. Give another URL, or "
                f"have an operator allow its host or network by {SETTING}."
            )


def parsed_url(url: str) -> httpx.URL:
    """Return the parts of an http or https URL with a host and without a user or password.

    Raises `AddressRefused`.
    """
    try:
        if len(url) > URL_CHARACTERS_MAX:
            raise AddressRefused(f"The URL has more than {URL_CHARACTERS_MAX} characters.")
        parsed = httpx.URL(url)
        parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError, TypeError):
        raise AddressRefused("The URL cannot be read; give one like https://host/path.") from None
    if parsed.port is not None and not 1 <= parsed.port <= _PORT_MAX:
        raise AddressRefused(f"The port of the URL must be from 1 to {_PORT_MAX}.")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise AddressRefused("The URL must begin with https:// or http:// and a host.")
    if parsed.userinfo:
        raise AddressRefused(
            "The URL must not have a user or password; requests are signed instead."
        )
    return parsed


def origin_of(url: httpx.URL) -> str:
    """Return what of a URL may be stored and shown: its scheme, host and port."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def is_public(address: Address) -> bool:
    """Return True if anybody can be reached at an address from anywhere.

    Not public: private, loopback, link-local, unspecified, multicast, shared (100.64.0.0/10) and
    reserved addresses, and IPv6 forms that lead to an IPv4 address which is not public.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if (mapped := _mapped(address)) is not None:
        return is_public(mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return (
        address.is_global
        # `is_reserved` has ::/8, and with it the IPv4-compatible ::127.0.0.1.
        and not (address.is_multicast or address.is_reserved or address.is_site_local)
        and address not in _LOCAL_NAT64
        and all(map(is_public, _tunnelled(address)))
    )


def _mapped(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that the operating system connects to for ::ffff:192.0.2.1."""
    return address.ipv4_mapped if isinstance(address, IPv6Address) else None


def _tunnelled(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that packets for a 6to4 or Teredo address are sent to."""
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
