"""The log in a browser: live, filtered, as of a moment, and whole after a restart."""

import secrets

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import NewDatabase
from tests.e2e.dashboard.conftest import SETTINGS
from tests.support.browser import Window, window
from tests.support.dashboard import claim, submit
from tests.support.server import FairlogServer

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`


def positions(opened: Window) -> list[int]:
    """Return the rows as they are shown, newest first."""
    found: list[int] = opened.page.eval_on_selector_all(
        "#events [data-event]", "rows => rows.map(row => Number(row.dataset.event))"
    )
    return found


def head(server: FairlogServer) -> int:
    position: int = server.client.get("/v1/stats").json()["position"]
    return position


def test_events_appear_as_they_are_written(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/audit")
    job_id = submit(server, "alice", secrets.token_hex())
    row = page.locator(f"#event-{job_id}")
    expect(row).to_contain_text("JobSubmitted")
    expect(row).to_contain_text("alice")
    row.locator("summary").click()
    [event] = server.client.get("/v1/audit", params={"after": job_id - 1, "limit": 1}).json()[
        "events"
    ]
    expect(row.locator(".hash")).to_have_text(event["hash"])
    expect(row.locator("pre")).to_contain_text(event["data"]["payload_sha256"])
    assert positions(opened)[:2] == [job_id, job_id - 1]


def test_an_open_event_holds_the_list_still(opened: Window, server: FairlogServer) -> None:
    submit(server, "alice", secrets.token_hex())
    page = opened.go("/audit")
    page.locator("#events summary").first.click()
    shown = positions(opened)
    submit(server, "alice", secrets.token_hex())
    expect(page.locator("#held")).to_have_text("2 new, paused while an event is open")
    assert positions(opened) == shown
    page.locator("#events summary").first.click()
    expect(page.locator("#held")).to_have_text("")
    assert positions(opened)[2:] == shown


def test_a_filter_holds_for_what_comes(opened: Window, server: FairlogServer) -> None:
    user = f"audited-{secrets.token_hex(4)}"
    submit(server, user, 1)
    page = opened.go("/audit")
    page.get_by_label("User").fill(user)
    page.get_by_label("Type").select_option("JobSubmitted")
    expect(page.locator("#events tr")).to_have_count(1)
    submit(server, "somebody", secrets.token_hex())
    submit(server, user, 2)
    expect(page.locator("#events tr")).to_have_count(2)
    page.reload()
    expect(page.locator("#events tr")).to_have_count(2)


def test_the_log_as_of_a_moment_stands_still(opened: Window, server: FairlogServer) -> None:
    submit(server, "alice", secrets.token_hex())
    then = head(server)
    submit(server, "alice", secrets.token_hex())
    page = opened.go("/audit")
    page.get_by_label("As of").fill(str(then))
    expect(page.locator(".audit-head")).to_contain_text("This page is not live")
    assert positions(opened)[0] == then
    stats = server.client.get("/v1/stats", params={"as_of": then}).json()
    queued = page.locator(".tile[data-state=queued] .tile-number")
    expect(queued).to_have_text(f"{stats['jobs']['queued']:,}")
    recorded_at = page.locator("#events time").first.get_attribute("datetime")
    submit(server, "alice", secrets.token_hex())
    page.wait_for_timeout(700)
    assert positions(opened)[0] == then
    opened.go(f"/audit?as_of={recorded_at}".replace("+", "%2B"))
    assert positions(opened)[0] == then


def test_older_events_are_paged_without_a_gap(opened: Window, server: FairlogServer) -> None:
    user = f"many-{secrets.token_hex(4)}"
    jobs = [{"user_id": user, "kind": "echo", "payload": number} for number in range(80)]
    server.client.post("/v1/jobs/batch", json={"jobs": jobs})
    page = opened.go(f"/audit?user={user}")
    first = positions(opened)
    page.get_by_role("link", name="Older").click()
    page.wait_for_load_state()
    shown = first + positions(opened)
    found = server.client.get("/v1/audit", params={"user_id": user, "limit": 1000}).json()
    assert shown == [event["position"] for event in reversed(found["events"])]


@pytest.mark.parametrize("way", ["terminate", "kill"])
def test_after_a_restart_no_event_is_missed_or_doubled(
    browser: Browser, new_database_url: NewDatabase, way: str
) -> None:
    with (
        FairlogServer(new_database_url(), settings=SETTINGS) as server,
        window(browser, server.url) as opened,
    ):
        for number in range(5):
            submit(server, "alice", number)
        page = opened.go("/audit")
        overview = page.context.new_page()
        overview.goto(server.url)
        getattr(server, way)()
        expect(page.locator("#connection")).to_have_text("reconnecting")
        server.start()
        for number in range(5, 10):
            submit(server, "alice", number)
        claim(server, 3)
        last = head(server)
        expect(page.locator(f"#event-{last}")).to_be_visible(timeout=15_000)
        assert positions(opened) == list(range(last, 0, -1))
        expect(overview.locator("#count-running")).to_have_text("3", timeout=15_000)
