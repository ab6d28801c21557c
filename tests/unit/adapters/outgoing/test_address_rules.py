from ipaddress import ip_address

import pytest

from adapters.outgoing.address_rules import AddressRules, is_public, parsed_url
from adapters.outgoing.errors import AddressRefused

NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 (an address to refuse)
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",  # carrier-grade NAT
    "100.127.255.255",
    "127.0.0.1",
    "127.255.0.1",
    "169.254.169.254",  # metadata of clouds
    "172.16.0.1",
    "172.31.255.255",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",  # IPv4-compatible
    "::ffff:127.0.0.1",  # IPv4-mapped
    "::ffff:10.0.0.1",
    "64:ff9b::127.0.0.1",  # NAT64
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001:db8::1",
    "2001:0:7f00:1::",  # Teredo, by a server on loopback
    "2001:0:808:808:0:0:80ff:fffe",  # Teredo, of a client on loopback
    "2002:7f00:1::",  # 6to4
    "2002:a00:1::",
    "2002:a9fe:a9fe::",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.32.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2606:4700::1111",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(AddressRefused) as refused:
        AddressRules().check("hooks.example", address)
    assert "hooks.example" in str(refused.value)
    assert address not in str(refused.value)  # or a URL would tell what a name resolves to


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_allowed(address: str) -> None:
    assert is_public(ip_address(address))
    AddressRules().check("hooks.example", address)


def test_the_zone_of_an_address_changes_nothing() -> None:
    with pytest.raises(AddressRefused):
        AddressRules().check("hooks.example", "fe80::1%eth0")


def test_an_allowed_network_is_allowed_in_each_form() -> None:
    rules = AddressRules.parsed("10.1.0.0/16,fd00::7")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::7"):
        rules.check("hooks.example", address)
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "fd00::8", "127.0.0.1"):
        with pytest.raises(AddressRefused):
            rules.check("hooks.example", address)


def test_an_allowed_name_is_allowed_wherever_it_is() -> None:
    rules = AddressRules.parsed("hooks.internal")
    rules.check("Hooks.Internal.", "10.0.0.1")
    for other in ("a.hooks.internal", "hooks.internal.example", "internal"):
        with pytest.raises(AddressRefused):
            rules.check(other, "10.0.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "//hooks.example/",
        "hooks.example",
        "https:///path",
        "https://user:password@hooks.example/",
        "https://hooks.example:99999/",
        "https://hooks.example/\n",
        "https://[::1",
        "https://hooks.example/" + "a" * 2_048,
    ],
)
def test_a_url_that_leads_nowhere_is_refused_before_anything_is_resolved(url: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        parsed_url(url)
    assert "password@" not in str(refused.value)


def test_a_name_in_another_alphabet_is_resolved_in_ascii() -> None:
    assert parsed_url("https://bücher.example/ä?q=1").raw_host == b"xn--bcher-kva.example"
