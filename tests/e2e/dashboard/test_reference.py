"""The API's reference at /schema: a page for people, a document for programs."""

import pytest
from playwright.sync_api import Browser, ConsoleMessage, expect

from tests.support.server import FairlogServer

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`


def test_a_browser_reads_the_reference_without_any_other_server(
    browser: Browser, server: FairlogServer
) -> None:
    page = browser.new_page()
    asked: list[str] = []
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # Two icons of the library are images in its style sheet, which the policy does not load.
        if message.type == "error" and "image/svg+xml" not in message.text:
            errors.append(message.text)

    page.on("request", lambda request: asked.append(request.url))
    page.on("console", note)
    page.goto(f"{server.url}/schema")
    submit = page.locator("#operations-jobs-submitJob")
    expect(submit).to_contain_text("Submit a job")
    submit.get_by_role("button").first.click()
    expect(submit).to_contain_text("idempotency_key")
    expect(submit).to_contain_text("429")
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
    assert errors == []
    page.close()


def test_a_program_reads_the_document_at_the_same_address(server: FairlogServer) -> None:
    for accept in ("application/json", "*/*"):
        answer = server.client.get("/schema", headers={"Accept": accept})
        assert answer.json()["openapi"].startswith("3.")
    page = server.client.get("/schema", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
