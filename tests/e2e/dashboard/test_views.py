"""The dashboard in a real browser: what each view shows, live."""

import re
import secrets
import time

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # no types
from playwright.sync_api import Browser, expect

from tests.conftest import NewDatabase
from tests.support.browser import Window, window
from tests.support.clock import NOON, ManualClock
from tests.support.dashboard import claim, end, submit
from tests.support.server import AppServer, FairlogServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("backend", ["mariadb"], indirect=True)

VIEWS = [
    "/",
    "/fairness",
    "/limits?user=alice",
    "/schedules",
    "/jobs",
    "/jobs?state=failed&error=no+such&since=1d",
    "/jobs?since=soon",
    "/audit",
    "/jobs/2",
    "/jobs/4",
    "/jobs/2?as_of=2",
    "/audit?as_of=3",
    "/audit/state?as_of=3",
]


@pytest.fixture(autouse=True)
def some_life(server: FairlogServer) -> None:
    """A few jobs in every state; the first is job 2."""
    if server.client.get("/v1/stats").json()["total"]:
        return
    for number in range(3):
        submit(server, "alice", {"n": number})
        submit(server, "bob", {"n": number}, "report")
    first, second, *_ = claim(server, 3)
    end(server, first)
    end(server, second, error={"type": "ValueError", "message": "no such picture"})
    submit(server, "carol", 1, run_at="2100-01-01T00:00:00Z")
    server.client.put("/v1/limits/dave", json={"running": 0}).raise_for_status()
    schedule = {"cron": "0 3 * * *", "user_id": "alice", "kind": "echo"}
    server.client.put("/v1/schedules/nightly", json=schedule).raise_for_status()


def test_the_overview_moves_with_a_submission(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/")
    queued = page.locator("#count-queued")
    before = int(queued.inner_text())
    submit(server, "alice", secrets.token_hex())
    began = time.monotonic()
    expect(queued).to_have_text(str(before + 1))
    assert time.monotonic() - began < 3


def test_the_overview_tells_workers_kinds_and_failures(opened: Window) -> None:
    page = opened.go("/")
    expect(page.get_by_role("region", name="Workers")).to_contain_text("tester")
    expect(page.get_by_role("region", name="Kinds")).to_contain_text("report")
    expect(page.get_by_role("region", name="Failures")).to_contain_text(
        "ValueError: no such picture"
    )
    # Drawn again every 10 s, and what follows the log may be later than the page.
    expect(page.locator("#chart-rates canvas")).to_be_visible(timeout=15_000)
    page.get_by_role("button", name="6 hours").click()
    expect(page).to_have_url(re.compile(r"span=6h"))
    page.reload()
    expect(page.get_by_role("button", name="6 hours")).to_have_attribute("aria-pressed", "true")


def test_schedules_show_their_next_and_latest_runs(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/schedules")
    row = page.locator("tbody tr").filter(has_text="nightly")
    expect(row).to_contain_text("0 3 * * * UTC")
    expect(row).to_contain_text("none yet")
    name = secrets.token_hex(4)
    schedule = {"every_seconds": 31_000_000, "user_id": "alice", "kind": "echo", "paused": True}
    server.client.put(f"/v1/schedules/{name}", json=schedule).raise_for_status()
    run = server.client.post(f"/v1/schedules/{name}/trigger").json()["run"]
    row = page.locator("tbody tr").filter(has_text=name)
    expect(row).to_contain_text("paused")
    expect(row).to_contain_text("submitted")
    expect(row.get_by_role("link", name=f"#{run['job_id']}")).to_be_visible()


def test_fairness_shows_whose_turn_it_is(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/fairness")
    turns = server.client.get("/v1/stats").json()["line"]["next"]
    rows = page.locator("section:has(#h-turn) tbody tr")
    expect(rows).to_have_count(len(turns))
    for index, turn in enumerate(turns):
        expect(rows.nth(index)).to_contain_text(turn["user_id"])


def test_a_fair_hour_looks_fair(browser: Browser, new_database_url: NewDatabase) -> None:
    """Alice was alone for most of it: nearly all starts are hers, and none was unfair."""
    with FairlogServer(new_database_url()) as server, window(browser, server.url) as opened:
        page = opened.go("/fairness")
        expect(page.get_by_text("No job was started while others waited.")).to_be_visible()
        for number in range(30):
            submit(server, "alice", number)
        claim(server, 20)
        for number in range(3):
            submit(server, "bob", number)
        claim(server, 10)
        page.reload()
        expect(page.get_by_label("The promise")).to_contain_text("The promise held")
        expect(page.get_by_label("The promise")).to_contain_text("the last 30 starts")
        plain = page.evaluate("getComputedStyle(document.body).color")
        expect(page.locator(".verdict-title")).to_have_css("color", plain)  # not that of faults
        rows = page.locator("section:has(#h-served) tbody tr")
        for user, contended, in_all in (("alice", "3", "27"), ("bob", "3", "3")):
            cells = rows.filter(has_text=user).locator("td")
            expect(cells.nth(2)).to_have_text(contended)
            expect(cells.nth(3)).to_have_text("50%")
            expect(cells.nth(4)).to_have_text("1")
            expect(cells.nth(5)).to_have_text("50%")
            expect(cells.nth(7)).to_have_text(in_all)
        expect(page.locator("#chart-got canvas")).to_be_visible()
        expect(page.locator("#chart-wait canvas")).to_be_visible()
        expect(page.locator("#chart-got .u-legend")).to_contain_text("alice")


def test_limits_show_a_window_and_who_is_refused(opened: Window, server: FairlogServer) -> None:
    assert server.client.put("/v1/limits/greedy", json={"limit": 1}).is_success
    page = opened.go("/limits?user=greedy")
    submit(server, "greedy", secrets.token_hex())
    refused = server.client.post(
        "/v1/jobs", json={"user_id": "greedy", "kind": "echo", "payload": 2}
    )
    assert refused.status_code == 429
    expect(page.locator("section:has(#h-wanted)")).to_contain_text("1 of 1 used, 0 left")
    expect(page.locator("section:has(#h-windows)")).to_contain_text("used up")
    expect(page.locator("section:has(#h-refused)")).to_contain_text("greedy")


def test_a_slash_goes_to_the_search_and_an_id_to_its_job(opened: Window) -> None:
    page = opened.go("/")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("#2")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/jobs/2$"))
    expect(page.locator(".job-title")).to_contain_text("#2")


def test_a_job_page_follows_its_job(opened: Window, server: FairlogServer) -> None:
    job_id = submit(server, "dora", {"x": [1, 2]}, "solo")
    page = opened.go(f"/jobs/{job_id}")
    expect(page.locator(".job-title .state")).to_have_text("queued")
    expect(page.locator("#h-payload + pre")).to_contain_text('"x"')
    [job] = claim(server, 1, kinds=["solo"])
    expect(page.locator(".job-title .state")).to_have_text("running")
    page.locator(".events summary").first.click()
    end(server, job)
    expect(page.locator(".job-title .state")).to_have_text("done")
    expect(page.locator("#h-result + pre")).to_contain_text('"ok": true')
    expect(page.locator(".events details").first).to_have_attribute("open", "")  # stays so
    expect(page.locator(".events li")).to_have_count(4)
    expect(page.locator(".timeline rect")).to_have_count(2)


def test_a_job_page_explains_why_a_job_waits(opened: Window, server: FairlogServer) -> None:
    job_id = submit(server, "erin", secrets.token_hex(), "nobody-takes-this")
    page = opened.go(f"/jobs/{job_id}")
    told = server.client.get(f"/v1/jobs/{job_id}/explain").json()
    for reason in told["reasons"][:1]:
        expect(page.locator(".explain")).to_contain_text(reason["text"][:40])


def test_a_failed_job_shows_its_error_as_text_with_the_last_line_first(
    opened: Window, server: FairlogServer
) -> None:
    job_id = submit(server, "dora", secrets.token_hex(), "torn")
    trace = 'Traceback (most recent call last):\n  File "torn.py", line 3, in torn\n    tear()\n'
    error = {"type": "ValueError", "message": "torn", "traceback": f"{trace}ValueError: torn\n"}
    [job] = claim(server, 1, kinds=["torn"])
    end(server, job, error=error, retry=True)
    wait_until(lambda: claim(server, 1, kinds=["torn"]) != [], "the retry is due")
    answer = server.client.post(
        f"/v1/jobs/{job_id}/fail", json={"attempt": 2, "error": error, "retry": False}
    )
    answer.raise_for_status()
    page = opened.go(f"/jobs/{job_id}")
    panel = page.locator("section:has(#h-error)")
    lines = [line for line in panel.inner_text().splitlines() if line]
    assert lines[1] == "ValueError: torn"
    assert lines[2:] == trace.splitlines()
    expect(page.locator("#h-why")).to_have_text("What became of it")
    expect(page.locator(".explain")).to_contain_text("on worker 'tester' with ValueError: torn")
    shown = page.locator(".legend [data-state]").evaluate_all(
        "spans => spans.map(span => span.dataset.state)"
    )
    assert sorted(shown) == ["failed", "queued", "running", "scheduled"]
    expect(page.locator(".legend [data-state=running]")).to_contain_text("running 2 times, ")
    row = page.locator("section:has(#h-attempts) tbody tr").last
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text('File "torn.py"')
    panel.get_by_role("link", name="failed jobs with this error").click()
    expect(page.locator(f"#job-{job_id}")).to_be_visible()


def test_a_job_is_shown_as_it_stood(opened: Window, server: FairlogServer) -> None:
    job_id = submit(server, "dora", secrets.token_hex(), "past")
    [job] = claim(server, 1, kinds=["past"])
    end(server, job)
    page = opened.go(f"/jobs/{job_id}")
    page.locator(".events summary", has_text="JobStarted").click()
    page.get_by_role("link", name="The job as of this event").locator("visible=true").click()
    expect(page.locator(".job-title .state")).to_have_text("running")
    expect(page.locator(".past")).to_contain_text("This is the job as of event")
    expect(page.locator("#h-result")).to_have_count(0)
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    page.get_by_role("link", name="Show it as it is now").click()
    expect(page.locator(".job-title .state")).to_have_text("done")


def test_times_are_relative_with_the_exact_one_on_hover(opened: Window) -> None:
    time_shown = opened.go("/jobs/2").locator("dd time").first
    expect(time_shown).to_have_text(re.compile(r"ago$"))
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", time_shown.get_attribute("title") or "")


@pytest.mark.parametrize("path", ["/", "/fairness", "/jobs/2"])
def test_all_durations_of_a_page_are_in_seconds_and_exact_on_hover(
    opened: Window, path: str
) -> None:
    page = opened.go(path)
    assert not re.search(r"\b[0-9.]+ (ms|µs)\b", page.locator("#live").inner_text())
    shown = page.locator("#live span[title$=' s']").first
    expect(shown).to_have_text(re.compile(r"^[0-9.]+ [smhd]( [0-9]+ [smh])?$"))
    assert re.fullmatch(r"[0-9,]+\.[0-9]{3} s", shown.get_attribute("title") or "")


def test_times_are_told_by_the_logs_clock(browser: Browser, new_database_url: NewDatabase) -> None:
    """The log is in the past, as on a machine whose clock is late."""
    with (
        AppServer(new_database_url(), clock=ManualClock(NOON)) as app,
        window(browser, app.url) as opened,
    ):
        answer = app.client.post("/v1/jobs", json={"user_id": "a", "kind": "b", "payload": 1})
        page = opened.go(f"/jobs/{answer.json()['id']}")
        page.wait_for_timeout(1500)  # the script shows times anew each second
        expect(page.locator("dd time").first).to_have_text(re.compile(r"^[0-9]+ s ago$"))


def test_what_is_not_there_says_what_to_do(opened: Window) -> None:
    page = opened.page
    page.goto(f"{opened.url}/jobs/999999")
    expect(page.get_by_role("alert")).to_contain_text("search among all jobs")
    opened.go("/jobs?user=nobody")
    expect(page.locator(".empty")).to_contain_text("Clear a filter")
    opened.go("/jobs?state=nonsense")
    expect(page.get_by_role("alert")).to_contain_text("There is no state 'nonsense'")


def test_the_theme_stays_chosen(opened: Window) -> None:
    page = opened.go("/")
    page.locator("#theme").select_option("dark")
    opened.go("/jobs")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 22)"


@pytest.mark.one_database
@pytest.mark.parametrize(("theme", "width"), [("light", 1360), ("dark", 1360), ("light", 420)])
def test_axe_finds_nothing_serious(
    browser: Browser, server: FairlogServer, theme: str, width: int
) -> None:
    with window(browser, server.url, theme=theme, width=width) as opened:
        for path in VIEWS:
            opened.go(path)
            found = Axe().run(opened.page).response["violations"]
            serious = [
                (path, one["id"], one["nodes"][0]["html"][:200])
                for one in found
                if one["impact"] in {"serious", "critical"}
            ]
            assert serious == []


def test_nothing_is_wider_than_a_narrow_screen(browser: Browser, server: FairlogServer) -> None:
    with window(browser, server.url, width=360) as opened:
        for path in VIEWS:
            page = opened.go(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_without_scripts_everything_can_be_read(browser: Browser, server: FairlogServer) -> None:
    with window(browser, server.url, has_scripts=False) as opened:
        for path in VIEWS:
            opened.page.goto(server.url + path)
            expect(opened.page.locator("#live")).to_contain_text(re.compile("alice|[0-9]"))
