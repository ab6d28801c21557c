"""Logging in to the dashboard: what a session may do, what it shows, and when it ends."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from adapters.servers.dashboard_sessions import (
    IDLE_SECONDS,
    LIFETIME_SECONDS,
    SESSIONS_PER_KEY_MAX,
    dashboard_sessions,
)
from adapters.settings import Settings
from domain.language.events import Role
from entrypoints.composition import prepare
from entrypoints.http.wrong_keys import WRONG_KEYS_MAX
from tests.support.keyed_server import (
    ABSENT,
    ALICE,
    BOB,
    MARKER,
    KeyedServer,
    absent_as,
    keyed_server,
)
from tests.support.keys import create_key, revoke_key, rotate_key, secret
from tests.support.server import AppServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.one_database  # the tests of the dashboard log in on the server, too

PAGES = ["/", "/fairness", "/limits", "/schedules", "/callbacks", "/jobs", "/audit", "/charts.json"]
OWN_PAGES = ["/schedules", "/jobs", "/audit"]
COOKIE = "fairlog_session"


def own(url: str) -> dict[str, str]:
    """Return what a browser says of a request by a page of the server."""
    return {"Sec-Fetch-Site": "same-origin", "Origin": url}


def log_in(url: str, key: str, client: httpx.Client | None = None, **more: str) -> httpx.Response:
    """Send the form of the login as a browser does."""
    form = {"key": secret(key), "to": "", **more}
    if client is not None:
        return client.post("/login", data=form, headers=own(url))
    return httpx.post(f"{url}/login", data=form, headers=own(url))


@contextmanager
def browser(url: str, key: str) -> Iterator[httpx.Client]:
    """Yield a client that is logged in with a key, and has no other credentials."""
    with httpx.Client(base_url=url, timeout=30) as client:
        answer = log_in(url, key, client)
        assert answer.status_code == 303, answer.text
        yield client


def is_logged_in(client: httpx.Client) -> bool:
    return client.get("/jobs").status_code == 200


def act(client: httpx.Client, what: str, job_id: int, **headers: str) -> httpx.Response:
    sent = {"HX-Request": "true", **(headers or own(str(client.base_url).rstrip("/")))}
    return client.post(f"/jobs/{what}", data={"id": str(job_id)}, headers=sent)


def test_a_browser_without_a_session_is_sent_to_the_login_and_back(keyed: KeyedServer) -> None:
    url = keyed.server.url
    with httpx.Client(base_url=url) as client:
        sent = client.get("/jobs?state=failed", headers={"Accept": "text/html"})
        assert sent.status_code == 303
        assert sent.headers["Location"] == "/login?to=%2Fjobs%3Fstate%3Dfailed"
        form = client.get(sent.headers["Location"])
        assert 'value="/jobs?state=failed"' in form.text
        answer = log_in(url, "reader", client, to="/jobs?state=failed")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs?state=failed")
        assert client.get(answer.headers["Location"]).status_code == 200
    refresh = httpx.get(f"{url}/jobs", headers={"HX-Request": "true"})
    assert (refresh.status_code, refresh.headers["HX-Redirect"]) == (401, "/login")
    assert httpx.get(f"{url}/jobs").status_code == 401  # a program


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/jobs\r\nX: y",
        "javascript:x",
        "/<script>",
        "evil",
        "/a//b" * 2_000,
    ],
)
def test_the_login_leads_to_no_other_site(keyed: KeyedServer, to: str) -> None:
    answer = log_in(keyed.server.url, "reader", to=to)
    assert answer.status_code in {303, 413}
    assert answer.headers.get("Location", "/") == "/"


def test_the_cookie_is_for_this_server_and_not_for_scripts(keyed: KeyedServer) -> None:
    [cookie] = log_in(keyed.server.url, "reader").headers.get_list("Set-Cookie")
    assert re.fullmatch(
        rf"{COOKIE}=[\w-]{{43}}; Max-Age={LIFETIME_SECONDS}; Path=/; HttpOnly; SameSite=Strict",
        cookie,
    )


@pytest.mark.parametrize("role", ["reader", "operator", "admin"])
def test_those_who_read_everything_see_all_pages(keyed: KeyedServer, role: str) -> None:
    with browser(keyed.server.url, role) as client:
        for path in PAGES:
            assert client.get(path).status_code == 200
        page = client.get("/jobs").text
        assert MARKER in client.get(f"/jobs/{keyed.bobs[0]}").text
        assert ("/jobs/cancel" in page) == (role != "reader")
        assert role in page
        assert secret(role) not in page


def test_a_submitter_sees_its_own_users_alone(keyed: KeyedServer) -> None:
    alices, bobs = keyed.alices, keyed.bobs
    with browser(keyed.server.url, "alice") as client:
        assert client.get("/").headers["Location"] == "/jobs"
        seen = ""
        addresses = [
            *OWN_PAGES,
            "/jobs?user=bob",
            "/jobs?kind=other",
            "/jobs?state=failed",
            f"/jobs?before={bobs[-1] + 9}",
            f"/jobs?after={bobs[0] - 1}",
            "/audit?user=bob",
            f"/audit?job={bobs[0]}",
            "/audit?type=JobFailed",
            "/audit?as_of=100000",
            f"/audit?as_of={bobs[-1]}",
            "/audit?before=100000",
            *(f"/jobs/{job_id}" for job_id in alices),
            f"/jobs/{alices[0]}?as_of={bobs[-1]}",
        ]
        for address in addresses:
            answer = client.get(address)
            assert answer.status_code in {200, 400}, address
            seen += answer.text
        assert "plain-payload-0" in seen
        assert MARKER not in seen
        assert ">bob<" not in seen.replace('value="bob"', "")
        for job_id in bobs:
            for path in ("", f"?as_of={bobs[-1]}", "/whole/payload", "/whole/result"):
                hidden = client.get(f"/jobs/{job_id}{path}")
                missing = client.get(f"/jobs/{ABSENT}{path}")
                assert hidden.status_code == 404
                assert (hidden.status_code, hidden.text) == absent_as(job_id, missing)
        for path in ("/fairness", "/limits", "/charts.json", "/audit/state?as_of=1"):
            assert client.get(path).status_code == 403


def test_pages_are_not_shared_between_those_who_see_different_things(keyed: KeyedServer) -> None:
    with ExitStack() as stack:
        operator, bob, alice, reader = (
            stack.enter_context(browser(keyed.server.url, name))
            for name in ("operator", "bob", "alice", "reader")
        )
        for path in ("/jobs", "/audit", "/jobs?state=failed"):
            pages = [one.get(path).text for one in (operator, bob, alice, reader)]
            assert "/jobs/" + str(keyed.alices[0]) not in pages[1]
            assert "/jobs/" + str(keyed.bobs[0]) not in pages[2]
            assert 'hx-post="/jobs/cancel"' not in pages[3]


def test_actions_are_offered_and_accepted_by_role(keyed: KeyedServer) -> None:
    waiting = keyed.submit("alice", ALICE, "to be cancelled")
    url = keyed.server.url
    with browser(url, "reader") as reader:
        assert act(reader, "cancel", waiting).status_code == 403
    with browser(url, "bob") as bob:
        refused = act(bob, "cancel", waiting).text
        assert "0 jobs cancelled" in refused
        assert "alice" not in refused
    with browser(url, "alice") as alice:
        assert "1 job cancelled" in act(alice, "cancel", waiting).text
    with browser(url, "operator") as operator:
        assert "1 job queued again" in act(operator, "retry", waiting).text
    events = keyed.clients["reader"].get("/v1/audit", params={"job_id": waiting}).json()["events"]
    assert [(one["type"], one["by"]) for one in events if one["type"] == "JobCancelled"] == [
        ("JobCancelled", "alice")
    ]
    assert events[-1]["by"] == "operator"


def test_a_key_that_may_look_at_nothing_cannot_log_in(keyed: KeyedServer) -> None:
    answer = log_in(keyed.server.url, "worker")
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "none"}, {"Origin": "null"}])
@pytest.mark.parametrize("path", ["/jobs/cancel", "/jobs/retry"])
def test_with_a_session_a_browser_has_to_say_who_acts(
    keyed: KeyedServer, path: str, headers: dict[str, str]
) -> None:
    with browser(keyed.server.url, "operator") as client:
        answer = client.post(
            path,
            data={"id": str(keyed.alices[3])},
            headers={"HX-Request": "true", **headers},
        )
        assert answer.status_code == 403
        assert is_logged_in(client)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_another_site_can_neither_log_anybody_in_nor_out(
    keyed: KeyedServer, headers: dict[str, str]
) -> None:
    with browser(keyed.server.url, "operator") as client:
        assert client.post("/logout", headers=headers).status_code == 403
        form = {"key": secret("reader")}
        assert client.post("/login", data=form, headers=headers).status_code == 403
        assert is_logged_in(client)


def test_the_api_takes_no_cookie(keyed: KeyedServer) -> None:
    with browser(keyed.server.url, "admin") as client:
        for path in ("/v1/jobs", "/v1/audit", "/v1/stats", "/v1/keys", "/metrics"):
            assert client.get(path).status_code == 401
        body = {"user_id": "alice", "kind": "echo", "payload": 1}
        headers = own(keyed.server.url)
        assert client.post("/v1/jobs", json=body, headers=headers).status_code == 401
        assert client.get("/jobs/dashboard").status_code == 401


def test_a_cookie_from_before_the_logout_is_refused_everywhere(
    keyed: KeyedServer, new_server_beside: AppServer
) -> None:
    with browser(keyed.server.url, "reader") as client:
        cookie = client.cookies[COOKIE]
        with httpx.Client(base_url=new_server_beside.url, cookies={COOKIE: cookie}) as beside:
            assert is_logged_in(client)
            assert is_logged_in(beside)
            answer = client.post("/logout", headers=own(keyed.server.url))
            assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
            assert f"{COOKIE}=; Max-Age=0" in answer.headers["Set-Cookie"]
            assert COOKIE not in client.cookies
            client.cookies.set(COOKIE, cookie)
            assert not is_logged_in(client)
            wait_until(lambda: not is_logged_in(beside), "the other server knows of the logout")


@pytest.fixture
def new_server_beside(keyed: KeyedServer) -> Iterator[AppServer]:
    """Start another server on the same database."""
    url = keyed.fairlog.database.url.render_as_string(hide_password=False)
    with AppServer(url, Settings(), keyed.clock) as server:
        yield server


def test_nobody_can_plant_a_session(keyed: KeyedServer) -> None:
    url = keyed.server.url
    planted = "A" * 43
    with httpx.Client(base_url=url, cookies={COOKIE: planted}) as client:
        assert not is_logged_in(client)
        answer = log_in(url, "reader", client)
        assert planted not in answer.headers["Set-Cookie"]
        client.cookies.clear()
        client.cookies.set(COOKIE, planted)
        assert not is_logged_in(client)
    with browser(url, "reader") as attacker, httpx.Client(base_url=url) as victim:
        cookie = attacker.cookies[COOKIE]
        victim.cookies.set(COOKIE, cookie)
        log_in(url, "operator", victim)
        assert not is_logged_in(attacker)  # the victim's login ended the planted session
    two = f"{COOKIE}={'B' * 43}; {COOKIE}={cookie}"
    assert httpx.get(f"{url}/jobs", headers={"Cookie": two}).status_code == 401


def test_a_session_ends_when_it_is_idle_and_at_its_latest_end(keyed: KeyedServer) -> None:
    step = IDLE_SECONDS - 60
    refresh = {"X-Fairlog-Refresh": "true"}
    with browser(keyed.server.url, "reader") as used, browser(keyed.server.url, "reader") as idle:
        for number in range(LIFETIME_SECONDS // step):
            keyed.clock.advance(step)
            wait_for_the_keys(keyed)
            assert is_logged_in(used)
            # What an open page asks for by itself is no use of it.
            assert (idle.get("/jobs", headers=refresh).status_code == 200) == (number == 0)
        keyed.clock.advance(step)
        wait_for_the_keys(keyed)
        assert not is_logged_in(used)


def wait_for_the_keys(keyed: KeyedServer) -> None:
    """Wait until the server knows the time."""

    def is_known() -> bool:
        keyed.clients["reader"].get("/v1/stats")
        return keyed.fairlog.key_ring.now >= keyed.clock.now()

    wait_until(is_known, "the server reads the keys again")


def test_a_session_ends_with_its_key(keyed: KeyedServer) -> None:
    keyed.do(create_key("leaver", Role.OPERATOR))
    keyed.do(create_key("rotating", Role.OPERATOR))
    with (
        browser(keyed.server.url, "leaver") as leaver,
        browser(keyed.server.url, "rotating") as rotating,
        leaver.stream("GET", "/pulse") as pulse,
        rotating.stream("GET", "/v1/stream") as stream,
    ):
        assert is_logged_in(leaver)
        assert (pulse.status_code, stream.status_code) == (200, 200)
        keyed.do(revoke_key("leaver"))
        keyed.do(rotate_key("rotating", "rotated away", 0.0))
        wait_until(lambda: not is_logged_in(leaver), "the session of a revoked key ends")
        wait_until(lambda: not is_logged_in(rotating), "the session of a rotated secret ends")
        for _ in pulse.iter_lines():  # ends
            pass
        for _ in stream.iter_lines():
            pass


def test_streams_end_with_the_logout(keyed: KeyedServer) -> None:
    with browser(keyed.server.url, "reader") as client, client.stream("GET", "/pulse") as pulse:
        lines = pulse.iter_lines()
        next(lines)
        client.post("/logout", headers=own(keyed.server.url))
        for _ in lines:  # ends
            pass


def test_wrong_keys_are_limited_by_address(new_database_url: Any) -> None:
    with keyed_server(new_database_url(), Settings(trusted_proxies="127.0.0.1/32")) as keyed:
        url = keyed.server.url
        statuses = [log_in(url, f"guess {n}").status_code for n in range(WRONG_KEYS_MAX + 3)]
        assert statuses == [401] * WRONG_KEYS_MAX + [429] * 3
        refused = log_in(url, "guess")
        assert int(refused.headers["Retry-After"]) > 0
        assert "Set-Cookie" not in refused.headers
        elsewhere = {**own(url), "X-Forwarded-For": "192.0.2.1"}
        answer = httpx.post(f"{url}/login", data={"key": secret("guess")}, headers=elsewhere)
        assert answer.status_code == 401


def test_behind_tls_the_cookie_is_secure_and_bound_to_the_host(new_database_url: Any) -> None:
    with keyed_server(new_database_url(), Settings(trusted_proxies="127.0.0.1/32")) as keyed:
        url = keyed.server.url
        tls = {"X-Forwarded-Proto": "https"}
        same = {"Sec-Fetch-Site": "same-origin"}
        form = {"key": secret("reader")}
        answer = httpx.post(f"{url}/login", data=form, headers={**tls, **same})
        [cookie] = answer.headers.get_list("Set-Cookie")
        assert cookie.startswith(f"__Host-{COOKIE}=")
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
        pair = cookie.partition(";")[0]
        assert httpx.get(f"{url}/jobs", headers={"Cookie": pair, **tls}).status_code == 200
        assert httpx.get(f"{url}/jobs", headers={"Cookie": pair}).status_code == 401
        plain = pair.removeprefix("__Host-")
        assert httpx.get(f"{url}/jobs", headers={"Cookie": plain, **tls}).status_code == 401


def test_a_key_has_a_bounded_number_of_sessions_and_the_database_no_token(
    keyed: KeyedServer,
) -> None:
    keyed.do(create_key("frequent", Role.READER))
    with browser(keyed.server.url, "frequent") as first:
        token = first.cookies[COOKIE]
        for _ in range(SESSIONS_PER_KEY_MAX):
            keyed.clock.advance(0.001)
            log_in(keyed.server.url, "frequent")
        wait_until(lambda: not is_logged_in(first), "the oldest session ends")
        with keyed.fairlog.database.read() as connection:
            rows = connection.execute(
                sa.select(dashboard_sessions).where(dashboard_sessions.c.key_name == b"frequent")
            ).all()
    assert len(rows) == SESSIONS_PER_KEY_MAX
    assert token.encode() not in b"".join(bytes(row.token_sha256) for row in rows)


def test_without_the_table_everybody_logs_in_again(keyed: KeyedServer) -> None:
    with browser(keyed.server.url, "reader") as client:
        with keyed.fairlog.database.write() as connection:
            dashboard_sessions.drop(connection)
        prepare(keyed.fairlog)
        wait_until(lambda: not is_logged_in(client), "the session has ended")
    with browser(keyed.server.url, "reader") as client:
        assert is_logged_in(client)


def test_without_keys_there_is_no_login(new_database_url: Any) -> None:
    with AppServer(new_database_url()) as server, closing(server.client) as client:
        assert client.get("/login").headers["Location"] == "/"
        page = client.get("/").text
        assert "Log out" not in page
        assert client.get("/jobs").text.count("/jobs/cancel") == 1


def test_a_session_sees_nothing_of_a_user_that_its_key_is_not_for(keyed: KeyedServer) -> None:
    """A reader's key may be for some users alone."""
    keyed.do(create_key("bobs-reader", Role.READER, users=(BOB,)))
    with browser(keyed.server.url, "bobs-reader") as client:
        page = client.get("/jobs").text
        assert f'id="job-{keyed.bobs[0]}"' in page
        assert f'id="job-{keyed.alices[0]}"' not in page
        assert "/jobs/cancel" not in page
        assert client.get(f"/jobs/{keyed.alices[0]}").status_code == 404
