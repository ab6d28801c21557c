"""Living and dead workers, and what the overview says of kinds that nobody takes."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from adapters.settings import Settings
from domain.language.identifiers import Kind, WorkerId
from entrypoints.service.worker_polls import LATELY_SECONDS
from tests.conftest import NewDatabase
from tests.support.browser import Window, window
from tests.support.clock import NOON, ManualClock
from tests.support.server import AppServer, claim, log_position, submit
from tests.support.waiting import wait_until

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`

IDLE_MILLISECONDS_MAX = 30_000
MUTED = "rgb(91, 100, 114)"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def app(new_database_url: NewDatabase, clock: ManualClock) -> Iterator[AppServer]:
    with AppServer(new_database_url(), Settings(), clock) as app:
        yield app


def activity_position(app: AppServer) -> int:
    with app.fairlog.database.read() as connection:
        checkpoint = app.fairlog.projector_runner.of("activity").checkpoint(connection)
    return 0 if checkpoint is None else checkpoint.position


@pytest.fixture
def opened(browser: Browser, app: AppServer) -> Iterator[Window]:
    with window(browser, app.url) as opened:
        yield opened


def test_an_idle_worker_beside_a_mistyped_and_a_paused_kind_is_no_alarm(
    opened: Window, app: AppServer
) -> None:
    submit(app.client, kind="thumbnial")
    page = opened.go("/")
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("Nothing consumes the line")
    expect(verdict).to_contain_text("1 job waits")
    claim(app.client, worker="idle", kinds=["thumbnail", "export"])
    page.reload()
    expect(verdict).to_have_attribute("data-tone", "warn")
    expect(verdict).to_contain_text("No worker takes the kind “thumbnial”")
    expect(verdict).to_contain_text("Workers ask for “thumbnail”: is “thumbnial” mistyped?")
    app.client.post("/v1/jobs/2/cancel").raise_for_status()
    app.client.put("/v1/kinds/export", json={"running": 0}).raise_for_status()
    submit(app.client, kind="export")
    page.reload()
    expect(verdict).to_have_attribute("data-tone", "idle")
    expect(verdict).to_contain_text("What waits is paused")
    expect(verdict).to_contain_text("The kind “export” is paused: 1 job waits.")
    app.client.put("/v1/kinds/export", json={"running": None}).raise_for_status()
    app.client.put("/v1/limits/ada", json={"running": 0}).raise_for_status()
    page.reload()
    expect(verdict).to_contain_text("The user “ada” is paused: 1 job waits.")


def test_a_worker_is_alive_while_it_polls_and_dim_when_it_has_died(
    opened: Window, app: AppServer, clock: ManualClock
) -> None:
    submit(app.client, kind="export")
    [job] = claim(app.client, worker="dying", kinds=["export"])
    app.client.post(f"/v1/jobs/{job['id']}/complete", json={"attempt": 1}).raise_for_status()
    page = opened.go("/")
    row = page.locator("section:has(#h-workers) tbody tr", has_text="dying")
    expect(row).to_have_class("alive")
    wait_until(lambda: activity_position(app) == log_position(app.client), "activity follows")
    polls = app.fairlog.worker_polls
    for worker in list(polls._workers):  # as if it had never polled this server
        del polls._workers[worker]
    clock.advance(LATELY_SECONDS + 1)
    polls.note(WorkerId("idle"))  # has never had a job
    with polls.claiming(WorkerId("idle"), [Kind("export")]):
        # No event tells of it: the page asks again by itself.
        expect(row).to_have_class("dead", timeout=IDLE_MILLISECONDS_MAX)
        expect(row).to_contain_text("dead")
        expect(row.locator("td").first).to_have_css("color", MUTED)
        living = page.locator("section:has(#h-workers) tbody tr", has_text="idle")
        expect(living).to_have_class("alive")
        expect(page.locator("#h-workers")).to_contain_text("1 alive, 1 dead")
