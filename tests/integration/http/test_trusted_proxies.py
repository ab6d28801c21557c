"""A proxy is believed only if its address was named."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from entrypoints.http.forwarding import TrustedProxies, client_of, prefix_of
from tests.conftest import NewDatabase
from tests.support.server import AppServer, submit

# Header fields of proxies are read before any database is asked.
pytestmark = pytest.mark.one_database


def forwarded(
    proxies: str, peer: str, *fields: tuple[str, str], scheme: str = "http"
) -> dict[str, Any]:
    """Return a request's scope after the proxies' fields were applied."""
    scope: dict[str, Any] = {
        "client": (peer, 4711),
        "scheme": scheme,
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields],
    }
    TrustedProxies(proxies).apply(scope)
    return scope


@pytest.mark.parametrize(
    ("proxies", "peer", "chains", "client"),
    [
        # Only a named proxy is believed.
        ("", "10.0.0.7", ["1.2.3.4"], "10.0.0.7"),
        ("10.0.0.7/32", "10.0.0.8", ["1.2.3.4"], "10.0.0.8"),
        ("10.0.0.7/32", "10.0.0.7", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.0/8", "10.9.9.9", ["1.2.3.4"], "1.2.3.4"),
        ("fd00::/8", "fd00::7", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.0/8", "::ffff:10.0.0.7", ["1.2.3.4"], "1.2.3.4"),
        # The rightmost address that is no proxy's counts: what is left of it may be invented.
        ("10.0.0.0/8", "10.0.0.7", ["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.7", ["9.9.9.9, 1.2.3.4, 10.0.0.8"], "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.7", ["9.9.9.9", "1.2.3.4", "10.0.0.8"], "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.7", ["10.0.0.9, 10.0.0.8"], "10.0.0.9"),
        ("10.0.0.0/8", "10.0.0.7", ["::ffff:10.0.0.8"], "10.0.0.8"),
        # Ports, spaces and empty entries.
        ("10.0.0.0/8", "10.0.0.7", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.0/8", "10.0.0.7", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.0/8", "10.0.0.7", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.0/8", "10.0.0.7", [" , 1.2.3.4 ,,"], "1.2.3.4"),
        # An entry that is no address: the proxy that wrote it.
        ("10.0.0.0/8", "10.0.0.7", ["1.2.3.4, unknown"], "10.0.0.7"),
        ("10.0.0.0/8", "10.0.0.7", ["unknown, 10.0.0.8"], "10.0.0.8"),
        ("10.0.0.0/8", "10.0.0.7", ["<script>"], "10.0.0.7"),
        ("10.0.0.0/8", "10.0.0.7", [""], "10.0.0.7"),
        ("10.0.0.0/8", "10.0.0.7", [], "10.0.0.7"),
    ],
)
def test_the_rightmost_address_that_is_no_proxys_is_the_clients(
    proxies: str, peer: str, chains: list[str], client: str
) -> None:
    fields = [("X-Forwarded-For", chain) for chain in chains]
    assert client_of(forwarded(proxies, peer, *fields)) == client


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http, https", "https"),
        ("https, http", "http"),
        ("wss", "http"),
        ("", "http"),
        ("https://", "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_says(said: str, scheme: str) -> None:
    field = ("X-Forwarded-Proto", said)
    assert forwarded("10.0.0.0/8", "10.0.0.7", field)["scheme"] == scheme
    assert forwarded("10.0.0.0/8", "9.9.9.9", field)["scheme"] == "http"


@pytest.mark.parametrize(
    ("said", "prefix"),
    [
        ("/fairlog", "/fairlog"),
        ("/a/b-c_1", "/a/b-c_1"),
        ("/fairlog/", "/fairlog"),
        *((wrong, "") for wrong in ("/", "//evil.example", "/..", "/a/../b", "fairlog", "/a b")),
        *((wrong, "") for wrong in ('/"><script>', "/a?b", "/a#b", "/" + "x" * 200, "https://e")),
    ],
)
def test_a_prefix_is_a_plain_path(said: str, prefix: str) -> None:
    field = ("X-Forwarded-Prefix", said)
    assert prefix_of(forwarded("10.0.0.0/8", "10.0.0.7", field)) == prefix
    assert prefix_of(forwarded("10.0.0.0/8", "9.9.9.9", field)) == ""


def test_the_standard_field_is_not_read_since_few_proxies_remove_a_clients_own() -> None:
    said = ("Forwarded", "for=1.2.3.4;proto=https")
    scope = forwarded("10.0.0.0/8", "10.0.0.7", said)
    assert (client_of(scope), scope["scheme"]) == ("10.0.0.7", "http")


@pytest.fixture(scope="module")
def backend() -> str:
    """No database has a part in it."""
    return "sqlite"


@pytest.fixture(scope="module")
def client(new_database_url: NewDatabase) -> Iterator[httpx.Client]:
    settings = Settings(trusted_proxies="127.0.0.1/32")
    with AppServer(new_database_url(), settings) as server:
        yield server.client


def test_links_begin_with_the_prefix(client: httpx.Client) -> None:
    behind = {"X-Forwarded-Prefix": "/fairlog"}
    job = submit(client, payload="linked")
    answer = client.post(
        "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": "linked"}, headers=behind
    )
    assert answer.headers["Location"] == f"/fairlog/v1/jobs/{job['id']}"
    for path in ("/", "/jobs", f"/jobs/{job['id']}", "/audit", "/limits", "/fairness", "/jobs/99"):
        page = client.get(path, headers=behind).text
        links = re.findall(r'(?:href|src|action|hx-get|hx-post|data-live)="(/[^"]*)"', page)
        assert len(links) > 10
        assert [link for link in links if not link.startswith("/fairlog/")] == []
        assert 'data-root="/fairlog"' in page
        assert "/fairlog" not in client.get(path).text
    found = client.get("/find?id=7", headers=behind, follow_redirects=False)
    assert found.headers["Location"] == "/fairlog/jobs/7"


def test_https_in_front_of_a_proxy_is_demanded_from_then_on(client: httpx.Client) -> None:
    field = "Strict-Transport-Security"
    assert field in client.get("/", headers={"X-Forwarded-Proto": "https"}).headers
    assert field not in client.get("/").headers
