"""Logging in, in a real browser, and what pages of other sites in the same browser can do."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from adapters.settings import Settings
from domain.language.events import Role
from tests.conftest import NewDatabase
from tests.support.browser import Window, window
from tests.support.certificates import Certificates
from tests.support.dashboard import confirm
from tests.support.keyed_server import ALICE, BOB, MARKER, KeyedServer, keyed_server
from tests.support.keys import create_key, revoke_key, secret

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`

COOKIE = "fairlog_session"


@pytest.fixture(scope="module")
def keyed(new_database_url: NewDatabase) -> Iterator[KeyedServer]:
    with keyed_server(new_database_url()) as keyed:
        yield keyed


@pytest.fixture
def opened(browser: Browser, keyed: KeyedServer) -> Iterator[Window]:
    with window(browser, keyed.server.url) as opened:
        yield opened


def log_in(opened: Window, key: str, path: str = "/") -> Page:
    """Open a page, which leads to the login, and log in with a key."""
    page = opened.page
    page.goto(opened.url + path)
    page.get_by_label("API key").fill(secret(key))
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    return page


def state_of(keyed: KeyedServer, job_id: int) -> str:
    state: str = keyed.clients["operator"].get(f"/v1/jobs/{job_id}").json()["state"]
    return state


@contextmanager
def other_site(page: str) -> Iterator[str]:
    """Serve a page on another port of this machine, which browsers take for the same site; yield
    its URL.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, name="other-site").start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_person_logs_in_and_out_again(opened: Window, keyed: KeyedServer) -> None:
    page = opened.page
    page.goto(f"{opened.url}/jobs?state=failed")
    expect(page).to_have_title("Log in · Fairlog")
    page.get_by_label("API key").fill(secret("nobody"))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown, mistyped, expired or revoked")
    page.get_by_label("API key").fill(secret("operator"))
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{opened.url}/jobs?state=failed")
    expect(page.locator(f"#job-{keyed.bobs[1]}")).to_be_visible()
    assert COOKIE not in page.evaluate("document.cookie")
    [cookie] = [one for one in page.context.cookies() if one["name"] == COOKIE]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_title("Log in · Fairlog")
    assert page.context.cookies() == []
    page.go_back()  # the browser has kept nothing
    expect(page).to_have_title("Log in · Fairlog")


def test_a_reader_is_offered_no_action_and_a_submitter_only_its_own_jobs(
    browser: Browser, keyed: KeyedServer
) -> None:
    with window(browser, keyed.server.url) as opened:
        page = log_in(opened, "reader", f"/jobs/{keyed.alices[3]}")
        expect(page.locator(".job-title")).to_be_visible()
        assert page.get_by_role("button", name="Cancel").count() == 0
        page = opened.go("/jobs")
        assert page.locator("[name=id][type=checkbox]").count() == 0
    with window(browser, keyed.server.url) as opened:
        page = log_in(opened, "alice")
        expect(page).to_have_url(f"{opened.url}/jobs")
        expect(page.locator(f"#job-{keyed.alices[0]}")).to_be_visible()
        assert page.locator(f"#job-{keyed.bobs[0]}").count() == 0
        views = page.locator("nav[aria-label=Views] a").all_inner_texts()
        assert views == ["Schedules", "Jobs", "Audit"]
        page.get_by_role("link", name="Audit").click()
        expect(page.locator("#events tr").first).to_be_visible()
        shown = page.locator("#events tr").count()
        keyed.submit("bob", BOB, f"{MARKER} live", word=MARKER)
        own = keyed.submit("alice", ALICE, "live")
        expect(page.locator("#events")).to_contain_text(f"#{own}")
        assert MARKER not in page.content()
        assert page.locator("#events tr").count() > shown


def test_a_submitter_cancels_its_own_job(opened: Window, keyed: KeyedServer) -> None:
    job_id = keyed.submit("alice", ALICE, "to cancel")
    page = log_in(opened, "alice", f"/jobs/{job_id}")
    page.get_by_role("button", name="Cancel").click()
    confirm(page)
    expect(page.locator(".job-title .state")).to_have_text("cancelled")
    events = keyed.clients["reader"].get("/v1/audit", params={"job_id": job_id}).json()["events"]
    assert events[-1]["by"] == "alice"


def test_only_an_operator_sees_the_forms_that_change_limits_and_retry_all(
    opened: Window,
) -> None:
    page = log_in(opened, "reader", "/limits")
    expect(page.locator("#h-set")).to_be_visible()
    assert page.locator("#limit-form").count() == 0
    opened.go("/jobs?state=failed")
    assert page.locator("#retry-all").count() == 0
    page.get_by_role("button", name="Log out").click()
    page = log_in(opened, "operator", "/limits")
    expect(page.locator("#change")).to_be_visible()
    opened.go("/jobs?state=failed")
    expect(page.locator("#retry-all")).to_be_visible()


@pytest.mark.parametrize("path", ["/limits/change", "/jobs/retry-matching"])
@pytest.mark.parametrize("role", ["reader", "alice"])
def test_other_roles_cannot_change_limits_or_retry_all(
    keyed: KeyedServer, role: str, path: str
) -> None:
    form = {"scope": "user", "name": "acme", "action": "pause", "state": "failed"}
    own = {"HX-Request": "true"}
    answer = keyed.clients[role].post(path, data=form, headers=own)
    assert answer.status_code == 403
    assert keyed.clients["reader"].get("/v1/limits/acme").json()["running"] is None


def test_an_open_page_leads_to_the_login_when_its_key_is_revoked(
    opened: Window, keyed: KeyedServer
) -> None:
    keyed.do(create_key("leaving", Role.OPERATOR))
    page = log_in(opened, "leaving")
    keyed.do(revoke_key("leaving"))
    expect(page).to_have_title("Log in · Fairlog")


def test_a_page_of_another_site_does_nothing_and_sees_nothing(
    opened: Window, keyed: KeyedServer
) -> None:
    """The browser sends the session's cookie: to it, another port is the same site."""
    job_id = keyed.submit("alice", ALICE, "not to be cancelled")
    before = keyed.clients["reader"].get("/v1/stats").json()["position"]
    page = log_in(opened, "operator")
    evil = f"""
        <iframe id="framed" src="{opened.url}/jobs"></iframe>
        <iframe name="target"></iframe>
        <form id="cancel" method="post" action="{opened.url}/jobs/cancel" target="target">
          <input name="id" value="{job_id}"></form>
        <form id="logout" method="post" action="{opened.url}/logout" target="target"></form>
        <img id="embedded" src="{opened.url}/jobs/{job_id}">
    """
    with other_site(evil) as site:
        page.goto(site)
        results = page.evaluate(
            """async (server) => {
                const attempts = {
                    simple: () => fetch(`${server}/v1/jobs`, {method: "POST", mode: "no-cors",
                        credentials: "include", headers: {"Content-Type": "text/plain"},
                        body: '{"user_id": "alice", "kind": "echo", "payload": "forged"}'}),
                    read: () => fetch(`${server}/jobs`, {credentials: "include"}),
                    script: () => import(`${server}/charts.json`),
                    preflight: () => fetch(`${server}/jobs/cancel`, {method: "POST",
                        credentials: "include", headers: {"HX-Request": "true"}, body: "id=1"}),
                    stream: () => new Promise((done, fail) => {
                        const source = new EventSource(`${server}/v1/stream?after=0`,
                            {withCredentials: true});
                        source.onmessage = (event) => done({type: "read " + event.data});
                        source.onerror = () => { source.close(); fail(new Error("refused")); };
                    }),
                };
                const results = {};
                for (const [name, attempt] of Object.entries(attempts))
                    results[name] = await attempt().then((answer) => answer.type, () => "refused");
                return results;
            }""",
            opened.url,
        )
        names = ("simple", "read", "script", "preflight", "stream")
        assert results == dict.fromkeys(names, "refused")
        for form, path in (("cancel", "/jobs/cancel"), ("logout", "/logout")):
            with page.expect_response(opened.url + path) as sent:
                page.evaluate(f"document.getElementById('{form}').submit()")
            assert sent.value.status == 403
            # The browser did send the cookie, so it was the server that refused.
            assert COOKIE in (sent.value.request.all_headers().get("cookie") or "")
        frame = page.frames[1]
        assert "Fairlog" not in frame.content()
        assert page.evaluate("document.getElementById('embedded').naturalWidth") == 0
    opened.complaints.clear()  # the browser says that it refused
    assert state_of(keyed, job_id) == "queued"
    assert keyed.clients["reader"].get("/v1/stats").json()["position"] == before
    page = opened.go("/jobs")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def test_a_name_that_is_made_to_point_here_reaches_nothing(
    opened: Window, keyed: KeyedServer
) -> None:
    answer = opened.page.goto(f"http://evil.example:{keyed.server.port}/login")
    assert answer is not None
    assert answer.status == 421
    assert opened.page.get_by_label("API key").count() == 0
    opened.complaints.clear()  # the browser says that it may load nothing here


def test_over_https_the_cookie_is_bound_to_the_host(
    browser: Browser,
    new_database_url: NewDatabase,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = Certificates(tmp_path_factory.mktemp("certificates"))
    settings = Settings(tls_cert=files.cert, tls_key=files.key)
    with (
        keyed_server(new_database_url(), settings, ca_file=files.ca) as keyed,
        window(browser, keyed.server.url, checks_certificates=False) as opened,
    ):
        page = log_in(opened, "reader", "/audit")
        [cookie] = page.context.cookies()
        assert cookie["name"] == f"__Host-{COOKIE}"
        assert (cookie["secure"], cookie["httpOnly"], cookie["path"]) == (True, True, "/")
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_title("Log in · Fairlog")
        assert page.context.cookies() == []
