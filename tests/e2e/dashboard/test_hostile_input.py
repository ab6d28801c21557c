"""Whatever users put in is shown as text, and breaks nothing."""

import secrets

import pytest
from playwright.sync_api import expect

from tests.support.browser import Window
from tests.support.dashboard import claim, end, submit
from tests.support.server import FairlogServer

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>'",
    "{{ 7 * 7 }} ${7*7} {% raw %}",
    "javascript:alert(1)",
    "</pre></table></template><h1>",
    "\u202eevil\u2066 \u05d0\u05d1\u05d2",
    "a" * 255,
    "' OR 1=1 -- &amp; %20 + # ?",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(opened: Window, server: FairlogServer, text: str) -> None:
    kind = f"{text[:240]}{secrets.token_hex(3)}"
    payload = {text: [text, {"deep": text}], "n": secrets.token_hex()}
    job_id = submit(server, text, payload, kind)
    page = opened.go("/audit")
    submit(server, text, secrets.token_hex())
    [job] = claim(server, 1, worker=text, kinds=[kind])
    end(server, job, error={"type": text, "message": text, "traceback": text})
    expect(page.locator("#events tr").first).to_contain_text("JobFailed")
    opened.go(f"/jobs/{job_id}")
    shown = page.locator("#h-payload + pre").inner_text()
    assert "deep" in shown
    assert page.locator("#live h1, #live svg[onload], #live img, #live script").count() == 0
    for path in ("/", "/fairness", "/limits", "/schedules", "/callbacks", "/jobs"):
        opened.go(path)
        assert page.locator("#live h1, #live img, #live script").count() == 0
    page.get_by_label("User").fill(text)
    expect(page.locator("tbody tr").first).to_be_visible()
    page.locator("tbody tr .name").first.click()
    expect(page.locator(f"#job-{job_id}")).to_be_visible()
    page.locator(f"#job-{job_id}").get_by_role("link", name=f"#{job_id}").click()
    expect(page.locator(".job-title .state")).to_have_text("failed")


def test_a_payload_of_a_megabyte_is_shown_from_its_beginning(
    opened: Window, server: FairlogServer
) -> None:
    text = "<b>x</b>" * 130_000
    job_id = submit(server, "large", text)
    page = opened.go(f"/jobs/{job_id}")
    expect(page.locator("#h-payload + pre")).to_contain_text("<b>x</b><b>x</b>")
    assert len(page.content()) < 200_000
    whole = server.client.get(f"/jobs/{job_id}/whole/payload")
    assert whole.headers["Content-Type"].startswith("text/plain")
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert whole.json() == text


@pytest.mark.parametrize(
    "path",
    ["/", "/fairness", "/limits", "/schedules", "/jobs", "/audit", "/charts.json", "/jobs/999999"],
)
def test_every_answer_is_guarded(server: FairlogServer, path: str) -> None:
    headers = server.client.get(path).headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
