"""Failures on the overview, the failed jobs that they lead to, and retrying all of them."""

import secrets
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.conftest import NewDatabase
from tests.support.browser import Window
from tests.support.dashboard import claim, confirm, end, state_of, submit
from tests.support.server import FairlogServer

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`

DISK = {"type": "OSError", "message": 'disk full on "/data" (50 %)'}
NETWORK = {"type": "ConnectionError", "message": "no answer"}


@pytest.fixture
def server(new_database_url: NewDatabase) -> Iterator[FairlogServer]:
    """Each test has a server of its own: the overview shows all that failed."""
    with FairlogServer(new_database_url()) as server:
        yield server


def fail(server: FairlogServer, error: object, number: int = 1) -> list[int]:
    jobs = [submit(server, "alice", secrets.token_hex(), "export") for _ in range(number)]
    for job in claim(server, number, kinds=["export"]):
        end(server, job, error=error)
    return jobs


def test_without_jobs_the_charts_say_that_they_have_no_data(opened: Window) -> None:
    page = opened.go("/")
    expect(
        page.get_by_text("No job was submitted, started or refused in this time.")
    ).to_be_visible()
    expect(page.get_by_text("No job was started in this time.")).to_be_visible()
    expect(page.locator("#chart-rates")).to_be_hidden()
    expect(page.get_by_text("Nothing failed in the last hour.")).to_be_visible()


def test_a_chart_appears_with_the_first_job(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/")
    expect(page.get_by_text("No job was submitted")).to_be_visible()
    submit(server, "alice", 1)
    expect(page.locator("#chart-rates canvas")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("No job was submitted")).to_be_hidden()
    expect(page.get_by_text("No job was started in this time.")).to_be_visible()


def test_failures_are_above_the_fold_and_no_row_is_half_empty(
    opened: Window, server: FairlogServer
) -> None:
    for number in range(8):
        fail(server, {"type": "ValueError", "message": f"picture {number} is broken"})
    page = opened.go("/")
    rows = page.locator("section:has(#h-failures) tbody tr")
    expect(rows).to_have_count(6, timeout=15_000)
    last, charts = rows.last.bounding_box(), page.locator("#charts").bounding_box()
    assert last is not None
    assert charts is not None
    assert last["y"] + last["height"] < min(charts["y"], 860)
    width = page.locator("#live").evaluate("element => element.clientWidth")
    for section in page.locator("#live > section").all():
        assert section.evaluate("element => element.offsetWidth") == width


def test_a_failure_leads_to_its_failed_jobs_and_all_are_retried(
    opened: Window, server: FairlogServer
) -> None:
    full, other = fail(server, DISK, 3), fail(server, NETWORK)
    page = opened.go("/")
    row = page.locator("section:has(#h-failures) tr", has_text="OSError: disk full")
    expect(row).to_contain_text("3", timeout=15_000)
    row.get_by_role("link", name="Retry all…").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.locator("tbody tr").first).to_contain_text('OSError: disk full on "/data" (50 %)')
    page.get_by_role("button", name="Retry all that match").click()
    expect(page.locator("#confirm-question")).to_contain_text("Queue all failed jobs again")
    confirm(page)
    expect(page.locator("#notice")).to_contain_text("3 jobs queued again.")
    assert [state_of(server, job_id) for job_id in full] == ["queued"] * 3
    assert state_of(server, other[0]) == "failed"
    expect(page.locator(".empty")).to_contain_text("No failed job has this error.")
    page.get_by_role("link", name="Show jobs in any state").click()
    expect(page.locator("tbody tr")).to_have_count(3)


def test_a_used_up_limit_says_when_to_retry_the_others(
    opened: Window, server: FairlogServer
) -> None:
    fail(server, DISK, 3)
    server.client.put("/v1/limits/alice", json={"limit": 0}).raise_for_status()
    page = opened.go("/jobs?state=failed")
    page.get_by_role("button", name="Retry all that match").click()
    confirm(page)
    expect(page.locator("#notice")).to_contain_text("0 jobs queued again.")
    expect(page.locator("#notice")).to_contain_text("A limit is used up: retry the others in")


@pytest.mark.parametrize("state", ["", "queued", "done"])
def test_only_failed_and_cancelled_jobs_can_all_be_retried(
    opened: Window, server: FairlogServer, state: str
) -> None:
    submit(server, "alice", 1)
    page = opened.go(f"/jobs?state={state}")
    assert page.get_by_role("button", name="Retry all that match").count() == 0
    own = {"HX-Request": "true"}
    answer = server.client.post("/jobs/retry-matching", data={"state": state}, headers=own)
    assert answer.status_code == 400
    assert "Only failed or cancelled jobs can be retried" in answer.text


def test_another_site_cannot_retry_all(server: FairlogServer) -> None:
    [job_id] = fail(server, DISK)
    answer: httpx.Response = server.client.post("/jobs/retry-matching", data={"state": "failed"})
    assert answer.status_code == 403
    assert state_of(server, job_id) == "failed"
