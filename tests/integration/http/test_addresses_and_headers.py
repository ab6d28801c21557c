"""Rules for every address: one way to write it, one server behind a name, safe answers."""

from collections.abc import Iterator

import httpx
import pytest

from adapters.settings import Settings
from entrypoints.runtime.host_names import hosts_of, is_accepted_host
from tests.conftest import NewDatabase
from tests.support.server import AppServer, claim, exchange, problem, submit

# Addresses and header fields are checked before any database is asked.
pytestmark = pytest.mark.one_database

ANY = "0.0.0.0"  # noqa: S104 (nothing is bound)


@pytest.fixture(scope="module")
def server(new_database_url: NewDatabase) -> Iterator[AppServer]:
    with AppServer(
        new_database_url(), Settings(allowed_hosts="fairlog.example,10.0.0.7")
    ) as server:
        for number in range(3):
            submit(server.client, payload=number)
        yield server


@pytest.fixture(scope="module")
def client(server: AppServer) -> httpx.Client:
    return server.client


def ask(server: AppServer, path: bytes, fields: bytes = b"Host: localhost\r\n") -> httpx.Response:
    """Send a path as it is written: a client library would write some paths otherwise."""
    return exchange(
        server.port, b"GET " + path + b" HTTP/1.1\r\n" + fields + b"Connection: close\r\n\r\n"
    )


ADDRESSES = [
    "/livez",
    "/healthz",
    "/readyz",
    "/metrics",
    "/schema",
    "/v1/jobs",
    "/v1/jobs/2",
    "/v1/jobs/2/events",
    "/v1/jobs/2/explain",
    "/v1/audit",
    "/v1/stats",
    "/v1/limits",
    "/v1/limits/ada",
    "/jobs/job_status/2",
    "/jobs/dashboard",
    "/",
    "/jobs",
    "/jobs/2",
    "/audit",
    "/limits",
    "/fairness",
]


@pytest.mark.parametrize("path", ADDRESSES)
def test_head_answers_as_get_does_without_the_body(client: httpx.Client, path: str) -> None:
    asked, got = client.head(path), client.get(path)
    assert asked.status_code == got.status_code == 200
    assert asked.content == b""
    assert asked.headers["Content-Type"] == got.headers["Content-Type"]
    assert int(asked.headers["Content-Length"]) > 0


def test_head_of_a_stream_ends(client: httpx.Client) -> None:
    for path in ("/v1/stream", "/pulse"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_head_of_what_is_not_there_or_takes_no_get_says_so(client: httpx.Client) -> None:
    assert client.head("/v1/jobs/999999").status_code == 404
    assert client.head("/nowhere").status_code == 404
    refused = client.head("/v1/claims")
    assert (refused.status_code, set(refused.headers["Allow"].split(", "))) == (
        405,
        {"POST", "OPTIONS"},
    )
    assert "HEAD" in client.delete("/v1/jobs").headers["Allow"]


@pytest.mark.parametrize(
    "path",
    [
        b"//v1//jobs",
        b"/v1//jobs",
        b"//",
        b"/v1/jobs/",
        b"/v1/jobs/2/",
        b"/%76%31/limits",
        b"/v1/%6aobs",
        b"/v1/jobs/%32",
        b"/v1/jobs/%D9%A2",
        b"/v1/./jobs",
        b"/v1/x/../jobs",
        b"/v1/%2e%2e/v1/jobs",
        b"/v1%2Fjobs",
        b"/v1/jobs/02",
        b"/v1/jobs/0",
        b"/v1/jobs/-2",
        b"/v1/jobs/+2",
        b"/v1/jobs/1_0",
        b"/v1/jobs/2.0",
        b"/v1/jobs/" + b"9" * 5000,
        b"/v1/jobs/%202",
        b"/jobs/job_status/%32",
        b"/jobs/02",
        b"/jobs/" + b"9" * 500,
        b"/jobs/job_status/" + b"9" * 400,
        b"/V1/jobs",
        b"/v1/jobs;x=1",
        b"/v1/jobs/2%00",
        b"/v1/limits//ada",
        b"/v1/limits/ada/",
        b"/v1/limits/%61da",
        b"/v1/limits/../jobs",
        b"/v1/limits/./ada",
        b"/v1/kinds/%65cho",
        b"/livez/",
        b"/audit/",
        b"*",
    ],
    ids=lambda path: path[:30].decode(),
)
def test_an_address_is_written_in_one_way(server: AppServer, path: bytes) -> None:
    answer = ask(server, path)
    assert answer.status_code in {400, 404}, answer.text
    if answer.headers["Content-Type"].startswith("application"):
        problem(answer, answer.status_code)


@pytest.mark.parametrize(
    ("path", "user"),
    [
        (b"/v1/limits/a%2Fb", "a/b"),
        (b"/v1/limits/a/b", "a/b"),
        (b"/v1/limits/a%2F%2Fb", "a//b"),
        (b"/v1/limits/%2E", "."),
        (b"/v1/limits/007", "007"),
        (b"/v1/limits/a%20b", "a b"),
        (b"/v1/limits/%D9%A2", "٢"),
        (b"/v1/limits/a%25", "a%"),
        (b"/v1/limits/a@b:c", "a@b:c"),
        (b"/v1/limits/%7Ea", "~a"),
    ],
)
def test_a_users_id_may_have_any_characters(server: AppServer, path: bytes, user: str) -> None:
    assert ask(server, path).json()["user_id"] == user


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.9.9.9",
        "[::1]:8000",
        "app.localhost",
        "localhost.",
        "fairlog.example",
        "Fairlog.Example:443",
        "10.0.0.7:8000",
    ],
)
def test_it_is_served_by_its_own_names(server: AppServer, host: str) -> None:
    assert ask(server, b"/livez", f"Host: {host}\r\n".encode()).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "fairlog.example.evil",
        "192.168.0.1",
        "[::2]",
        "localhost:x",
        "a b",
        "",
        "evil@localhost",
        "xlocalhost",
    ],
)
@pytest.mark.parametrize("path", [b"/", b"/v1/jobs", b"/livez", b"/nowhere"])
def test_another_name_is_not_served(server: AppServer, host: str, path: bytes) -> None:
    """A page of another site can make its own name point to here."""
    answer = ask(server, path, f"Host: {host}\r\n".encode())
    assert "allowed-host" in problem(answer, 421)["detail"]


def test_without_a_name_it_is_served_to_old_health_checks(server: AppServer) -> None:
    answer = exchange(server.port, b"GET /livez HTTP/1.0\r\n\r\n")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("listens", "allowed", "host", "is_accepted"),
    [
        ("127.0.0.1", "", "localhost:8000", True),
        ("127.0.0.1", "", "10.0.0.7", False),
        ("::1", "[fd00::7]", "[fd00::7]:8000", True),
        (ANY, "", "10.0.0.7:8000", True),
        (ANY, "", "[fd00::7]", True),
        ("::", "", "127.0.0.1", True),
        (ANY, "", "jobs.example", False),
        (ANY, "", "10.0.0.7.evil.example", False),
        (ANY, "jobs.example", "jobs.example", True),
        (ANY, "jobs.example", "10.0.0.7", True),
        (ANY, "jobs.example", "evil.example", False),
        ("jobs.internal", "", "jobs.internal", True),
        ("10.0.0.7", "", "evil.example", False),
    ],
)
def test_a_server_for_other_machines_accepts_addresses_and_the_names_that_it_was_given(
    listens: str, allowed: str, host: str, *, is_accepted: bool
) -> None:
    assert is_accepted_host(host.encode(), hosts_of(listens, allowed)) == is_accepted


@pytest.mark.parametrize(
    "field",
    ["Idempotency-Key", "Host", "Content-Type", "Last-Event-ID", "Authorization", "Origin"],
)
def test_a_header_that_comes_once_may_not_come_twice(server: AppServer, field: str) -> None:
    body = b'{"user_id": "ada", "kind": "echo", "payload": 1}'
    fields = f"{field}: localhost\r\n{field}: localhost\r\n"
    if field != "Host":
        fields += "Host: localhost\r\n"
    answer = exchange(
        server.port,
        b"POST /v1/jobs HTTP/1.1\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s"
        % (fields.encode(), len(body), body),
    )
    assert field.lower() in problem(answer, 400)["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", path, 200) for path in ADDRESSES),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/jobs/999999", 404),
        ("GET", "/jobs/999999", 404),
        ("DELETE", "/v1/jobs", 405),
        ("POST", "/v1/jobs", 400),
        ("GET", "/v1/jobs?limit=x", 400),
        ("GET", "/static/nothing", 404),
        ("POST", "/jobs/cancel", 400),
        ("OPTIONS", "/v1/jobs", 204),
    ],
)
def test_no_answer_is_guessed_at_or_kept(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status or path == "/jobs/cancel"
    assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert answer.headers.get_list("Cache-Control") == ["no-store"]


SAFE = {
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
}


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        *(("GET", path, {}) for path in ADDRESSES),
        ("GET", "/nowhere", {}),
        ("GET", "/jobs/999999", {}),
        ("GET", "/static/nothing", {}),
        ("DELETE", "/v1/jobs", {}),
        ("GET", "/livez", {"Host": "evil.example"}),
        ("POST", "/v1/jobs", {"Origin": "https://evil.example"}),
        ("POST", "/v1/jobs", {"Content-Type": "text/plain"}),
        ("OPTIONS", "/v1/jobs", {}),
        ("HEAD", "/v1/stream", {}),
    ],
)
def test_every_answer_has_the_security_fields_once(
    client: httpx.Client, method: str, path: str, fields: dict[str, str]
) -> None:
    answer = client.request(method, path, headers=fields)
    for name, value in SAFE.items():
        assert answer.headers.get_list(name) == [value]
    [policy] = answer.headers.get_list("Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith("frame-ancestors 'none'")
    assert "Strict-Transport-Security" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_files_and_requests_that_are_not_http_have_the_security_fields_too(
    server: AppServer,
) -> None:
    page = server.client.get("/").text
    paths = {part for part in page.split('"') if part.startswith("/static/")}
    assert len(paths) > 4
    answers = [server.client.get(path) for path in paths]
    answers.append(exchange(server.port, b"no request at all\r\n\r\n"))
    for answer in answers:
        for name, value in SAFE.items():
            assert answer.headers.get_list(name) == [value]


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "text/plain;charset=UTF-8",
        "Application/X-WWW-Form-Urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
def test_types_that_a_page_of_any_site_may_send_are_refused(
    client: httpx.Client, media_type: str
) -> None:
    for path in ("/v1/jobs", "/v1/jobs/batch", "/v1/claims", "/jobs/submit_job"):
        answer = client.post(
            path,
            content=b'{"user_id": "ada", "kind": "echo", "payload": 1, "jobs": []}',
            headers={"Content-Type": media_type},
        )
        assert "application/json" in problem(answer, 415)["detail"]


def test_accepted_refused_and_too_large_submissions_are_not_kept_either(
    client: httpx.Client,
) -> None:
    for content, status in (
        (b'{"user_id": "ada", "kind": "echo", "payload": "kept?"}', 202),
        (b"{", 400),
        (b'"' + b"x" * (9 * 1024 * 1024) + b'"', 413),
    ):
        answer = client.post("/v1/jobs", content=content)
        assert answer.status_code == status
        assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers.get_list("Cache-Control") == ["no-store"]


def test_files_of_the_dashboard_are_kept(client: httpx.Client) -> None:
    page = client.get("/").text
    path = next(part for part in page.split('"') if part.startswith("/static/"))
    for method in ("GET", "HEAD"):
        answer = client.request(method, path)
        assert answer.status_code == 200
        assert answer.headers.get_list("Cache-Control") == ["max-age=31536000, immutable"]
        assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]


def test_claims_are_answered_as_before(client: httpx.Client) -> None:
    assert len(claim(client, 2)) == 2
