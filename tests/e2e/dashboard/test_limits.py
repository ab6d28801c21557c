"""Setting and clearing limits, caps and pauses, and the list of all that are set."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.conftest import NewDatabase
from tests.support.browser import Window
from tests.support.dashboard import claim, confirm, submit
from tests.support.server import FairlogServer

pytestmark = pytest.mark.one_database  # as the page sees it; see `test_views`


@pytest.fixture
def server(new_database_url: NewDatabase) -> Iterator[FairlogServer]:
    """Each test has a server of its own: the list shows all that is set."""
    with FairlogServer(new_database_url()) as server:
        yield server


def set_rows(page: Page) -> Locator:
    return page.locator("section:has(#h-set) tbody tr")


def fill(page: Page, scope: str, name: str = "", **numbers: str) -> None:
    if page.locator("#change").get_attribute("open") is None:
        page.locator("#change summary").click()
    form = page.locator("#limit-form")
    form.get_by_label("Of").select_option(scope)
    form.get_by_label("Name").fill(name)
    for label, number in numbers.items():
        form.locator(f"[name={label}]").fill(number)


def test_a_users_limit_and_cap_are_set_listed_and_cleared(
    opened: Window, server: FairlogServer
) -> None:
    page = opened.go("/limits")
    expect(page.locator("section:has(#h-set)")).to_contain_text("No limit is set here.")
    fill(page, "user", "acme", limit="50", running="2")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#notice")).to_contain_text(
        "The user “acme”: 50 submissions per window, at most 2 jobs running."
    )
    row = set_rows(page).filter(has_text="acme")
    expect(row).to_contain_text("50")
    limits = server.client.get("/v1/limits/acme").json()
    assert (limits["limit"], limits["running"]) == (50, 2)
    expect(page.locator("#limit-form [name=limit]")).to_have_value("")
    row.get_by_role("button", name="Clear").click()
    expect(page.locator("#confirm-question")).to_contain_text("Clear all that is set for “acme”?")
    confirm(page)
    expect(set_rows(page)).to_have_count(0)
    limits = server.client.get("/v1/limits/acme").json()
    assert (limits["limit"], limits["running"]) == (600, None)


def test_a_plan_is_made_and_a_user_put_on_it(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/limits")
    fill(page, "plan", "gold", throttle="5/1s", weight="2", windows="10/1s 1000/1h")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#notice")).to_contain_text(
        "The plan “gold”: further windows of 10 in 1 s and 1,000 in 3,600 s, "
        "starts throttled to 5 in 1 s, the weight 2."
    )
    fill(page, "user", "acme", plan="gold")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("The user “acme”: on the plan “gold”.")
    plan = server.client.get("/v1/plans/gold").json()
    assert (plan["throttle"], plan["weight"]) == ({"limit": 5, "seconds": 1}, 2)
    assert server.client.get("/v1/limits/acme").json()["plan"] == "gold"
    page.goto(page.url)
    expect(page.locator("#plans option")).to_have_count(1)


def test_a_kind_is_paused_and_resumed(opened: Window, server: FairlogServer) -> None:
    submit(server, "alice", 1, "export")
    page = opened.go("/limits")
    fill(page, "kind", "export")
    page.get_by_role("button", name="Pause").click()
    confirm(page)
    row = set_rows(page).filter(has_text="export")
    expect(row).to_contain_text("paused")
    expect(page.locator("#notice")).to_contain_text("The kind “export”: paused, no job starts.")
    assert claim(server, 1) == []
    server.client.put("/v1/kinds/export", json={"running": 0}).raise_for_status()
    row.get_by_role("button", name="Resume").click()
    expect(set_rows(page)).to_have_count(0)
    assert len(claim(server, 1)) == 1


def test_what_is_paused_is_a_banner_that_resumes_it(opened: Window, server: FairlogServer) -> None:
    submit(server, "alice", 1, "export", resources=["shop:acme"])
    for path in ("limits", "limits/alice/kinds/export", "plans/gold", "resources/shop:acme"):
        server.client.put(f"/v1/{path}", json={"paused": True}).raise_for_status()
    server.client.put("/v1/limits/alice", json={"running": 0}).raise_for_status()
    page = opened.go("/")
    banner = page.get_by_label("Paused").locator("p")
    expect(banner).to_contain_text(
        [
            "Everything is paused: 1 job waits.",
            "The plan “gold” is paused: 0 jobs of the",
            "The resource “shop:acme” is paused: 1 job waits.",
            "The user “alice” is paused: 1 job waits.",
            "The kind “export” of the user “alice” is paused: 1 job waits.",
        ]
    )
    for left in range(4, -1, -1):
        banner.first.get_by_role("button", name="Resume").click()
        expect(banner).to_have_count(left)
    assert len(claim(server, 1)) == 1


def test_throttles_in_use_are_listed_with_their_fill(opened: Window, server: FairlogServer) -> None:
    server.client.put("/v1/resources/shop:*", json={"throttle": {"limit": 4, "seconds": 86400}})
    server.client.put("/v1/limits/alice", json={"throttle": {"limit": 1, "seconds": 86400}})
    push = {"url": "https://images.example/jobs?token=1"}
    server.client.put("/v1/kinds/resize", json={"push": push}).raise_for_status()
    for number in range(3):
        submit(server, "alice", number, resources=["shop:acme"])
    assert len(claim(server, 3)) == 1
    page = opened.go("/limits")
    pushed = set_rows(page).filter(has_text="resize")
    expect(pushed).to_contain_text("posted to https://images.example/jobs")
    expect(pushed).not_to_contain_text("token")
    rows = page.locator("section:has(#h-throttles) tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("alice")
    expect(rows.first.locator("svg")).to_have_attribute("aria-label", "1 of 1")
    expect(rows.last).to_contain_text("shop:acme")
    expect(rows.last.locator("svg")).to_have_attribute("aria-label", "1 of 4")


def test_the_limit_of_all_users_together_is_set(opened: Window, server: FairlogServer) -> None:
    page = opened.go("/limits")
    fill(page, "all", limit="7")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(set_rows(page).first).to_contain_text("all users together")
    assert server.client.get("/v1/limits").json()["limit"] == 7


def test_a_wrong_number_gets_a_sentence_and_changes_nothing(
    opened: Window, server: FairlogServer
) -> None:
    page = opened.go("/limits")
    fill(page, "user", "acme", limit="many")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("A limit of submissions is a whole number")
    expect(page.locator("#limit-form [name=limit]")).to_have_value("many")
    opened.complaints.clear()  # htmx says that it was refused
    assert server.client.get("/v1/limits/acme").json()["limit"] == 600


def test_names_that_look_like_code_are_set_and_cleared(opened: Window) -> None:
    name = "<b>\"x'</b> & {{ 1 }}"
    page = opened.go("/limits")
    fill(page, "user", name, running="1")
    page.get_by_role("button", name="Set", exact=True).click()
    row = set_rows(page).filter(has_text=name)
    row.get_by_role("button", name="Clear").click()
    confirm(page)
    expect(set_rows(page)).to_have_count(0)


def test_many_limits_are_listed_in_pages(opened: Window, server: FairlogServer) -> None:
    for number in range(205):
        server.client.put(f"/v1/limits/user-{number:03}", json={"running": 1}).raise_for_status()
    page = opened.go("/limits")
    expect(set_rows(page)).to_have_count(200)
    page.get_by_role("link", name="More").click()
    expect(set_rows(page)).to_have_count(5)
    expect(set_rows(page).last).to_contain_text("user-204")
    page.get_by_role("link", name="First").click()
    expect(set_rows(page).first).to_contain_text("user-000")


def test_plans_are_listed_and_a_user_s_limits_say_where_they_come_from(
    opened: Window, server: FairlogServer
) -> None:
    gold = {"limit": 70, "weight": 2.5, "windows": [{"limit": 10, "seconds": 1}]}
    server.client.put("/v1/plans/gold", json=gold).raise_for_status()
    own = {"plan": "gold", "running": 4}
    server.client.put("/v1/limits/acme", json=own).raise_for_status()
    page = opened.go("/limits?user=acme")
    expect(set_rows(page)).to_have_count(2)
    expect(set_rows(page).filter(has_text="gold").first).to_contain_text("10 in 1 s; weight 2.5")
    facts = page.locator("section:has(#h-wanted)")
    expect(facts).to_contain_text("70 set for plan gold")
    expect(facts).to_contain_text("2.5 set for plan gold")
    expect(facts).to_contain_text("4 set for the user")


def test_another_site_cannot_change_a_limit(server: FairlogServer) -> None:
    form = {"scope": "user", "name": "acme", "action": "pause"}
    assert server.client.post("/limits/change", data=form).status_code == 403
    assert server.client.get("/v1/limits/acme").json()["paused"] is False
