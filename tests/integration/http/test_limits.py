from typing import Any
from urllib.parse import quote

import httpx
import pytest

from entrypoints.use_cases import time_travel
from tests.support.clock import ManualClock
from tests.support.server import audit, claim, log_position, problem, submit


def change(client: httpx.Client, whose: str, **limits: int | None) -> dict[str, Any]:
    answer = client.put(f"/v1/{whose}", json=limits)
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


def test_a_users_window_is_told_beside_the_global_one(
    client: httpx.Client, clock: ManualClock
) -> None:
    submit(client, "ada")
    submit(client, "bob")
    submit(client, "bob", payload=1)
    clock.advance(30)
    everyone = {
        "limit": 6000,
        "used": 3,
        "remaining": 5997,
        "window_seconds": 60,
        "resets_at": "2026-01-31T12:01:00Z",
        "running": None,
    }
    further = {"windows": [], "paused": False, "set": {}}
    assert client.get("/v1/limits").json() == everyone | further
    assert client.get("/v1/limits/bob").json() == further | {
        "user_id": "bob",
        "limit": 600,
        "used": 2,
        "remaining": 598,
        "window_seconds": 60,
        "resets_at": "2026-01-31T12:01:00Z",
        "running": None,
        "plan": None,
        "throttle": None,
        "weight": 1.0,
        "max_attempts": None,
        "priority_max": None,
        "global": everyone,
    }
    assert client.get("/v1/limits/nobody").json()["used"] == 0


def test_a_new_window_begins_at_nothing(client: httpx.Client, clock: ManualClock) -> None:
    submit(client)
    clock.advance(60)
    window = client.get("/v1/limits/ada").json()
    assert (window["used"], window["remaining"]) == (0, 600)
    assert window["resets_at"] == "2026-01-31T12:02:00Z"


def test_a_users_limit_holds_from_now_on_and_null_is_the_default_again(
    client: httpx.Client,
) -> None:
    submit(client)
    view = change(client, "limits/ada", limit=2)
    assert (view["limit"], view["used"], view["remaining"]) == (2, 1, 1)
    assert view == client.get("/v1/limits/ada").json()
    accepted = client.post("/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": 1})
    assert accepted.headers["RateLimit-Policy"].startswith('"user";q=2;w=60')
    problem(client.post("/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": 2}), 429)
    submit(client, "bob")
    assert change(client, "limits/ada", limit=None)["limit"] == 600
    submit(client, "ada", payload=2)


def test_a_limit_below_what_is_used_leaves_nothing(client: httpx.Client) -> None:
    submit(client)
    submit(client, payload=1)
    view = change(client, "limits/ada", limit=1)
    assert (view["used"], view["remaining"]) == (2, 0)


def test_a_limit_of_zero_shuts_a_user_out(client: httpx.Client) -> None:
    change(client, "limits/ada", limit=0)
    body = problem(
        client.post("/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": 1}), 429
    )
    assert (body["limit"], body["used"]) == (0, 0)


def test_the_global_limit_can_be_changed_and_given_back(client: httpx.Client) -> None:
    assert change(client, "limits", limit=1)["limit"] == 1
    submit(client, "ada")
    body = problem(
        client.post("/v1/jobs", json={"user_id": "bob", "kind": "echo", "payload": 1}), 429
    )
    assert body["scope"] == "global"
    assert change(client, "limits", limit=None)["limit"] == 6000
    submit(client, "bob")


def test_a_field_left_out_stays_as_it_was(client: httpx.Client) -> None:
    change(client, "limits/ada", limit=5)
    change(client, "limits/ada", running=3)
    view = client.get("/v1/limits/ada").json()
    assert (view["limit"], view["running"]) == (5, 3)
    view = change(client, "limits/ada", limit=None)
    assert (view["limit"], view["running"]) == (600, 3)
    view = change(client, "limits/ada", limit=7, running=None)
    assert (view["limit"], view["running"]) == (7, None)


def test_every_change_is_an_event(client: httpx.Client) -> None:
    change(client, "limits/ada", limit=5, running=1)
    change(client, "limits", limit=9)
    change(client, "kinds/echo", running=2)
    changes = [event["data"] for event in audit(client, type="LimitChanged")]
    assert changes == [
        {"type": "LimitChanged", "scope": "user", "user_id": "ada", "limit": 5, "running": 1},
        {"type": "LimitChanged", "scope": "global", "limit": 9},
        {"type": "LimitChanged", "scope": "kind", "kind": "echo", "running": 2},
    ]


def test_a_user_runs_no_more_at_once_than_allowed_and_nobody_waits_behind(
    client: httpx.Client,
) -> None:
    change(client, "limits/ada", running=2)
    ids = [submit(client, "ada", payload=number)["id"] for number in range(4)]
    bob = submit(client, "bob")["id"]
    assert [job["id"] for job in claim(client, 9)] == [ids[0], bob, ids[1]]
    assert claim(client, 9) == []
    client.post(f"/v1/jobs/{ids[0]}/complete", json={"attempt": 1})
    assert [job["id"] for job in claim(client, 9)] == [ids[2]]
    change(client, "limits/ada", running=None)
    assert [job["id"] for job in claim(client, 9)] == [ids[3]]


def test_a_kind_runs_no_more_at_once_than_allowed(client: httpx.Client) -> None:
    view = change(client, "kinds/slow", running=1)
    assert view == {
        "kind": "slow",
        "waiting": 0,
        "running": 0,
        "running_limit": 1,
        "throttle": None,
        "paused": False,
        "retry": None,
        "timeout_seconds": None,
        "push": None,
    }
    ids = [
        submit(client, user, kind=kind)["id"]
        for user in ("ada", "bob")
        for kind in ("slow", "quick")
    ]
    given = {job["id"] for job in claim(client, 9)}
    assert given == {ids[0], ids[1], ids[3]}
    assert change(client, "kinds/slow", running=None)["running_limit"] is None
    assert [job["id"] for job in claim(client, 9)] == [ids[2]]


@pytest.mark.parametrize("user", ["a/b", "/", "a//b/", "a?b#c", "100%", " ä ", "日本", "a "])
def test_a_users_limits_are_found_under_any_id(shared: httpx.Client, user: str) -> None:
    address = f"/v1/limits/{quote(user, safe='')}"
    if user == "/":  # the one id that an address cannot hold; it must not be taken for another
        problem(shared.put(address, json={"limit": 1}), 404)
    else:
        assert shared.put(address, json={"limit": 1}).json()["user_id"] == user
        assert shared.get(address).json()["limit"] == 1
    assert shared.get("/v1/limits").json()["limit"] == 6000
    assert shared.get("/v1/limits/a").json()["limit"] == 600


def test_a_kind_is_found_under_any_name(client: httpx.Client) -> None:
    kind = "pdf/übersetzen"
    answer = client.put(f"/v1/kinds/{quote(kind, safe='')}", json={"running": 1})
    assert answer.json()["kind"] == kind


@pytest.mark.parametrize("address", ["/v1/limits/", "/v1/limits//", "/v1/limits/%2F"])
def test_a_forgotten_user_id_does_not_change_the_global_limit(
    shared: httpx.Client, address: str
) -> None:
    assert shared.put(address, json={"limit": 1}).status_code in {400, 404}
    assert shared.get(address).status_code in {400, 404}
    assert shared.get("/v1/limits").json()["limit"] == 6000


def test_the_past_tells_so_many_limits_and_how_many_there_were(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_travel, "LIMITS_SHOWN_MAX", 3)
    for number in range(5):
        change(client, f"limits/user-{number}", limit=number)
    then = client.get("/v1/stats", params={"as_of": log_position(client)}).json()
    assert [limit["user_id"] for limit in then["limits"]] == ["user-0", "user-1", "user-2"]
    assert then["limits_total"] == 5


def test_a_change_that_changes_nothing_leaves_no_event(client: httpx.Client) -> None:
    for _ in range(2):
        change(client, "limits/ada", limit=5, running=1)
        change(client, "limits/ada", running=1)
        change(client, "limits/bob", limit=None)
        change(client, "limits", limit=9)
        change(client, "kinds/echo", running=2)
    assert [event["data"]["scope"] for event in audit(client, type="LimitChanged")] == [
        "user",
        "global",
        "kind",
    ]
    change(client, "kinds/echo", running=None)
    change(client, "limits/ada", limit=None)
    assert len(audit(client, type="LimitChanged")) == 5
    assert client.get("/v1/limits/ada").json()["limit"] == 600


@pytest.mark.parametrize(
    ("whose", "body"),
    [
        ("limits/ada", {}),
        ("limits/ada", {"limit": -1}),
        ("limits/ada", {"limit": 1_000_000_001}),
        ("limits/ada", {"limit": 2**63}),
        ("limits/ada", {"limit": 1.5}),
        ("limits/ada", {"limit": "5"}),
        ("limits/ada", {"limit": True}),
        ("limits/ada", {"running": -1}),
        ("limits/ada", {"colour": "red"}),
        ("limits/" + "u" * 256, {"limit": 1}),
        ("limits/a%0Ab", {"limit": 1}),
        ("limits/%FF", {"limit": 1}),
        ("limits/%ED%A0%80", {"limit": 1}),
        ("limits", {}),
        ("limits", {"running": 1}),
        ("kinds/echo", {}),
        ("kinds/echo", {"limit": 1}),
        ("kinds/echo", {"running": -1}),
        ("kinds/%FF", {"running": 1}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_limit_that_cannot_be_is_refused_and_nothing_changes(
    shared: httpx.Client, whose: str, body: dict[str, Any]
) -> None:
    before = log_position(shared)
    problem(shared.put(f"/v1/{whose}", json=body), 400)
    assert log_position(shared) == before
