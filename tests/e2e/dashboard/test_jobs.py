"""Finding jobs, and acting on one or on a selection."""

import re
import secrets

import pytest
from playwright.sync_api import expect

from tests.support.browser import Window
from tests.support.dashboard import claim, confirm, end, state_of, submit
from tests.support.server import FairlogServer


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
