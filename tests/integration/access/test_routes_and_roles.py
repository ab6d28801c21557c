"""Each route of the application times each role, against the one table of rules."""

import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from litestar import Litestar, get

from adapters.settings import Settings
from domain.access.rights import RIGHTS
from domain.language.identifiers import ServerId
from entrypoints.composition import compose
from entrypoints.http.access import RULES, rule_of
from entrypoints.http.forwarding import TrustedProxies
from entrypoints.processes.app import create_app
from entrypoints.runtime.host_names import hosts_of
from tests.support.keyed_server import MARKER, ROLES, KeyedServer
from tests.support.keys import secret

# Rules and roles are held against a request before any database is asked.
pytestmark = pytest.mark.one_database

# Bodies that a route accepts, so that a refusal has no other reason. Other routes get `{}`.
BODIES: dict[str, Any] = {
    "/v1/jobs": {"user_id": "alice", "kind": "echo", "payload": 1},
    "/v1/jobs/batch": {"jobs": [{"user_id": "alice", "kind": "echo", "payload": 2}]},
    "/v1/jobs/retry": {"state": "failed"},
    "/v1/claims": {"worker": "worker-1", "kinds": ["none"]},
    "/v1/claims/heartbeat": {"worker": "worker-1", "jobs": []},
    "/v1/claims/complete": {"worker": "worker-1", "jobs": []},
    "/v1/claims/return": {"worker": "worker-1", "jobs": []},
    "/v1/claims/take-back": {"worker": "nobody"},
    "/v1/jobs/{job_id}/complete": {"attempt": 9},
    "/v1/jobs/{job_id}/fail": {"attempt": 9, "error": "no"},
    "/v1/callbacks/{name}": {"url": "https://a.example/", "kinds": ["nothing"]},
    "/v1/schedules/{name}": {"user_id": "alice", "kind": "echo", "every_seconds": 31_000_000},
    "/v1/schedules/{name}/backfill": {
        "from": "2026-01-01T00:00:00Z",
        "until": "2026-01-02T00:00:00Z",
    },
    "/v1/keys": {"name": "alice", "role": "reader"},
    "/jobs/submit_job": {"user_id": "alice", "payload": "x"},
}


def routes_of(app: Litestar) -> list[tuple[str, str]]:
    """Return each method and path of the application, without the automatic OPTIONS."""
    return sorted(
        (method, route.path_format)
        for route in app.routes
        for method in route.methods
        if method not in {"OPTIONS", "HEAD"}
    )


def application() -> Litestar:
    fairlog = compose(Settings(database_url="sqlite://"))
    return create_app(
        fairlog,
        server_id=ServerId("routes"),
        workers=0,
        hosts=hosts_of("127.0.0.1", ""),
        proxies=TrustedProxies(""),
    )


ROUTES = routes_of(application())


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_every_route_has_a_rule(method: str, path: str) -> None:
    assert rule_of(method, path) is not None, f"add {method} {path} to RULES"


def test_every_rule_is_of_a_route() -> None:
    assert set(RULES) <= set(ROUTES)


def test_a_route_without_a_rule_is_refused(keyed: KeyedServer) -> None:
    @get("/v1/forgotten")
    async def forgotten() -> str:
        return MARKER

    keyed.server.app.register(forgotten)
    for client in keyed.clients.values():
        answer = client.get("/v1/forgotten")
        assert answer.status_code == 403
        assert MARKER not in answer.text
    assert httpx.get(f"{keyed.server.url}/v1/forgotten").status_code == 403


def request(
    keyed: KeyedServer, client: httpx.Client, method: str, path: str
) -> tuple[int, str, httpx.Headers]:
    """Send a request about things of Alice's; return the status and the beginning of the body."""
    values = {"job_id": keyed.alices[0], "user_id": "alice", "kind": "echo", "name": "victim"}
    values |= {"path": "openapi.json", "file_path": "app.js"}
    if path.endswith("/whole/{name}"):
        values["name"] = "payload"
    address = re.sub(r"\{(\w+)\}", lambda found: str(values[found[1]]), path)
    if address == "/audit/state":
        address += "?as_of=1"
    body = {} if method == "GET" else {"json": BODIES.get(path, {})}
    with client.stream(method, address, **body) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer.status_code, "", answer.headers
        answer.read()
        return answer.status_code, answer.text, answer.headers


@pytest.fixture(scope="module")
def nobody(keyed: KeyedServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=keyed.server.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_a_route_serves_the_roles_that_its_rule_names(
    keyed: KeyedServer, method: str, path: str
) -> None:
    rule = rule_of(method, path)
    assert rule is not None
    for name, role in ROLES.items():
        status, text, headers = request(keyed, keyed.clients[name], method, path)
        if not rule or not RIGHTS[role].isdisjoint(rule):
            assert status != 401, (name, text)
            assert "lacks the right" not in text, (name, text)
            assert status < 500, (name, text)
        else:
            assert status == 403, (name, text)
            assert "lacks the right: " in text
            assert "insufficient_scope" in headers["WWW-Authenticate"]
        if name == "alice":
            assert MARKER not in text


# One test for all of them: each more would cost more than its request.
INVALID: Final = (
    None,
    "Bearer",
    "Basic YTpi",
    "Bearer fl_",
    f"Bearer {secret('nobody')}",
    "expired",
    "revoked",
    "rotated",
    "mistyped",
)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_a_route_serves_nobody_without_a_valid_key(
    keyed: KeyedServer, nobody: httpx.Client, method: str, path: str
) -> None:
    rule = rule_of(method, path)
    for given in INVALID:
        nobody.headers.pop("Authorization", None)
        if given is not None:
            nobody.headers["Authorization"] = _authorization(given)
        status, text, answered = request(keyed, nobody, method, path)
        if not rule:
            assert status not in {401, 403}, given
        else:
            assert status in {401, 429}, (given, text)  # 429: too many wrong keys
            if status == 401:
                assert answered["WWW-Authenticate"].startswith("Bearer "), given
            assert secret("revoked") not in text, given
        assert MARKER not in text, given


def _authorization(given: str) -> str:
    if given in {"expired", "revoked", "rotated"}:
        return f"Bearer {secret(given)}"
    if given == "mistyped":
        return f"Bearer {secret('admin')[:-1]}{'y' if secret('admin')[-1] != 'y' else 'z'}"
    return given
