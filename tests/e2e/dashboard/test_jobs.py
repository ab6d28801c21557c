"""Finding jobs, and acting on one or on a selection."""

import re
import secrets

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import Window, window
from tests.support.dashboard import claim, confirm, end, state_of, submit
from tests.support.server import FairlogServer

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`


def ids(opened: Window) -> list[int]:
    return [
        int(box.get_attribute("value") or 0) for box in opened.page.locator("tbody [name=id]").all()
    ]


def test_filters_show_what_matches_and_stand_in_the_address(
    opened: Window, server: FairlogServer
) -> None:
    user = f"filtered-{secrets.token_hex(4)}"
    echo, report = submit(server, user, 1), submit(server, user, 2, "report")
    other = submit(server, "somebody", secrets.token_hex(), "report")
    page = opened.go("/jobs")
    page.get_by_label("User").fill(user)
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page).to_have_url(re.compile(rf"/jobs\?user={user}$"))
    page.get_by_label("Kind").fill("report")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert ids(opened) == [report]
    page.get_by_label("User").fill("")
    expect(page.locator(f"#job-{other}")).to_be_visible()
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(1)
    server.client.post(f"/v1/jobs/{echo}/cancel")
    opened.go(f"/jobs?user={user}&state=cancelled")
    assert ids(opened) == [echo]


def test_jobs_are_found_by_error_and_by_time_and_show_excerpts(
    opened: Window, server: FairlogServer
) -> None:
    kind = f"torn-{secrets.token_hex(4)}"
    failed, done = submit(server, "alice", {"image": "a.png"}, kind), submit(server, "bob", 2, kind)
    for job in claim(server, 2, kinds=[kind]):
        end(server, job, error=None if job["id"] == done else {"type": "E", "message": "torn <b>"})
    page = opened.go(f"/jobs?kind={kind}")
    expect(page.locator("tbody tr")).to_have_count(2)
    row = page.locator(f"#job-{failed}")
    expect(row).to_contain_text('{"image":"a.png"}')
    expect(row).to_contain_text("E: torn <b>")
    page.get_by_label("Error").fill("torn <b>")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"error=torn"))
    page.get_by_label("Error").fill("")
    page.get_by_label("Since").fill("1h")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Since").fill("")
    page.get_by_label("Until").fill("1h")
    expect(page.locator(".empty")).to_contain_text("No job matches.")
    page.get_by_label("Until").fill("soon")
    expect(page.get_by_role("alert")).to_contain_text("Until is a length of time before now")


def test_jobs_with_an_error_are_paged_without_a_gap(opened: Window, server: FairlogServer) -> None:
    kind = f"paged-{secrets.token_hex(4)}"
    jobs = [{"user_id": "alice", "kind": kind, "payload": number} for number in range(60)]
    server.client.post("/v1/jobs/batch", json={"jobs": jobs}).raise_for_status()
    for job in claim(server, 60, kinds=[kind]):
        end(server, job, error=f"error {kind}")
    page = opened.go(f"/jobs?state=failed&error={kind}&since=1d")
    first = ids(opened)
    page.get_by_role("link", name="Older").click()
    page.wait_for_load_state()
    second = ids(opened)
    assert (len(first), len(second)) == (50, 10)
    assert len({*first, *second}) == 60
    page.get_by_role("link", name="Newest").click()
    page.wait_for_load_state()
    assert ids(opened) == first


def test_a_narrow_screen_shows_jobs_as_cards_that_are_not_cut_off(
    browser: Browser, server: FairlogServer
) -> None:
    user = f"narrow-{secrets.token_hex(4)}"
    job_id = submit(server, user, {"text": "x" * 500})
    with window(browser, server.url, width=420) as opened:
        page = opened.go(f"/jobs?user={user}")
        card = page.locator(f"#job-{job_id}")
        for text in (f"#{job_id}", "queued", user, "echo", "0 of 3", '{"text":"xxx'):
            shown = card.get_by_text(text, exact=False).first
            expect(shown).to_be_visible()
            box = shown.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + min(box["width"], 40) <= 420
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        widths = card.locator("td").evaluate_all(
            "cells => cells.map(c => c.getBoundingClientRect().right)"
        )
        assert max(widths) <= 420
        card.get_by_label(f"Select job {job_id}").check()
        expect(page.locator("#selected-count")).to_have_text("1 selected")


def test_a_new_job_appears_in_the_list(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/jobs")
    job_id = submit(server, "alice", secrets.token_hex())
    expect(page.locator(f"#job-{job_id}")).to_be_visible()


def test_pages_go_down_and_up_again_without_a_gap(opened: Window, server: FairlogServer) -> None:
    user = f"paged-{secrets.token_hex(4)}"
    jobs = [{"user_id": user, "kind": "echo", "payload": number} for number in range(120)]
    answer = server.client.post("/v1/jobs/batch", json={"jobs": jobs}).json()
    submitted = sorted((one["job"]["id"] for one in answer["jobs"]), reverse=True)
    page = opened.go(f"/jobs?user={user}")
    pages = [ids(opened)]
    for _ in range(2):
        page.get_by_role("link", name="Older").click()
        page.wait_for_load_state()
        pages.append(ids(opened))
    assert [one for shown in pages for one in shown] == submitted
    assert page.get_by_role("link", name="Older").count() == 0
    page.get_by_role("link", name="Newer").click()
    page.wait_for_load_state()
    assert ids(opened) == pages[1]


def test_cancel_asks_first(opened: Window, server: FairlogServer) -> None:
    job_id = submit(server, "alice", secrets.token_hex())
    page = opened.go(f"/jobs/{job_id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#confirm-question")).to_contain_text(f"Cancel job {job_id}?")
    page.get_by_role("button", name="Keep as it is").click()
    assert state_of(server, job_id) == "queued"
    page.get_by_role("button", name="Cancel").click()
    confirm(page)
    expect(page.locator(".job-title .state")).to_have_text("cancelled")
    expect(page.locator("#notice")).to_contain_text("1 job cancelled.")
    assert state_of(server, job_id) == "cancelled"
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()


def test_retry_queues_a_failed_job_again(opened: Window, server: FairlogServer) -> None:
    job_id = submit(server, "alice", secrets.token_hex(), "flaky")
    [job] = claim(server, 1, kinds=["flaky"])
    end(server, job, error="broken <b>pipe</b>")
    page = opened.go(f"/jobs/{job_id}")
    expect(page.locator("section:has(#h-attempts)")).to_contain_text("broken <b>pipe</b>")
    page.get_by_role("button", name="Retry").click()
    confirm(page)
    expect(page.locator(".job-title .state")).to_have_text("queued")
    assert state_of(server, job_id) == "queued"


def test_a_selection_is_acted_on_together(opened: Window, server: FairlogServer) -> None:
    user = f"chosen-{secrets.token_hex(4)}"
    jobs = [submit(server, user, number) for number in range(4)]
    page = opened.go(f"/jobs?user={user}")
    for job_id in jobs[:2]:
        page.locator(f"#job-{job_id} [name=id]").check()
    expect(page.locator("#selected-count")).to_have_text("2 selected")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#confirm-question")).to_contain_text("these 2 jobs")
    confirm(page)
    expect(page.locator(".state[data-state=cancelled]")).to_have_count(2)
    assert [state_of(server, one) for one in jobs] == ["cancelled"] * 2 + ["queued"] * 2
    page.get_by_label("Select all on this page").check()
    page.get_by_role("button", name="Retry").click()
    confirm(page)
    expect(page.locator("#notice")).to_contain_text("2 jobs queued again.")
    expect(page.locator("#notice .refused")).to_have_count(2)
    expect(page.locator(".state[data-state=queued]")).to_have_count(4)


def test_a_selection_stays_while_the_list_moves(opened: Window, server: FairlogServer) -> None:
    user = f"still-{secrets.token_hex(4)}"
    first = submit(server, user, 1)
    page = opened.go(f"/jobs?user={user}")
    page.locator(f"#job-{first} [name=id]").check()
    second = submit(server, user, 2)
    page.wait_for_timeout(1500)
    expect(page.locator(f"#job-{first} [name=id]")).to_be_checked()
    page.locator(f"#job-{first} [name=id]").uncheck()
    submit(server, user, 3)
    expect(page.locator(f"#job-{second}")).to_be_visible()


@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_another_site_cannot_act(server: FairlogServer, action: str) -> None:
    job_id = submit(server, "alice", secrets.token_hex())
    answer = server.client.post(f"/jobs/{action}", data={"id": str(job_id)})
    assert answer.status_code == 403
    assert state_of(server, job_id) == "queued"
