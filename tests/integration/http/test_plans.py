"""Plans, resources and kinds over HTTP: what is set, how it stands, and bad input."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from domain.decisions.answers import LimitsSet
from domain.limits.limits import SUBJECTS_MAX
from tests.support.clock import ManualClock
from tests.support.live_line import limit_resource
from tests.support.server import AppServer, audit, claim, problem, submit

GOLD = {
    "limit": 100,
    "running": 3,
    "windows": [{"limit": 50, "seconds": 3600}, {"limit": 2, "seconds": 1}],
    "throttle": {"limit": 5, "seconds": 1},
    "weight": 2.5,
    "paused": False,
    "max_attempts": 5,
    "priority_max": 10,
}
SHORTEST_FIRST = [{"limit": 2, "seconds": 1}, {"limit": 50, "seconds": 3600}]


def put(client: httpx.Client, path: str, body: Any) -> Any:
    answer = client.put(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == client.get(f"/v1/{path}").json()
    return answer.json()


def test_a_plan_is_shown_as_it_was_set_and_its_users_have_its_limits(
    client: httpx.Client,
) -> None:
    shown = GOLD | {"name": "gold", "users": 0, "windows": SHORTEST_FIRST}
    assert put(client, "plans/gold", GOLD) == shown
    put(client, "limits/ada", {"plan": "gold", "running": 1})
    submit(client, "ada")
    view = client.get("/v1/limits/ada").json()
    assert view["plan"] == "gold"
    assert view["set"] == {"plan": "gold", "running": 1}
    assert (view["limit"], view["running"], view["weight"]) == (100, 1, 2.5)
    assert (view["throttle"], view["max_attempts"], view["priority_max"]) == (
        {"limit": 5, "seconds": 1, "started": 0, "resets_at": "2026-01-31T12:00:01Z"},
        5,
        10,
    )
    assert [(one["name"], one["used"], one["remaining"]) for one in view["windows"]] == [
        ("user-1s", 1, 1),
        ("user-3600s", 1, 49),
    ]
    put(client, "plans/free", {})
    page = client.get("/v1/plans", params={"limit": 1}).json()
    assert [plan["name"] for plan in page["plans"]] == ["free"]
    [plan] = client.get("/v1/plans", params={"cursor": page["next"]}).json()["plans"]
    assert plan == shown | {"users": 1}


def test_a_plan_is_deleted_when_nobody_is_on_it(client: httpx.Client) -> None:
    put(client, "plans/gold", {"limit": 1})
    put(client, "limits/ada", {"plan": "gold"})
    assert "1 user is on the plan" in problem(client.delete("/v1/plans/gold"), 409)["detail"]
    put(client, "limits/ada", {"plan": None})
    assert client.delete("/v1/plans/gold").status_code == 204
    assert "PUT /v1/plans" in problem(client.get("/v1/plans/gold"), 404)["detail"]
    problem(client.delete("/v1/plans/gold"), 404)
    assert [event["data"] for event in audit(client, type="PlanDeleted")] == [
        {"type": "PlanDeleted", "plan": "gold"}
    ]


def test_a_users_kind_a_kind_and_a_resource_have_limits_of_starts(client: httpx.Client) -> None:
    throttle = {"limit": 5, "seconds": 60}
    unused = throttle | {"started": 0, "resets_at": "2026-01-31T12:01:00Z"}
    user, kind = "a/b", "pdf/kinds"
    address = f"limits/{quote(user, safe='')}/kinds/{quote(kind, safe='')}"
    assert put(client, address, {"throttle": throttle, "running": 2, "paused": True}) == {
        "user_id": user,
        "kind": kind,
        "waiting": 0,
        "running": 0,
        "running_limit": 2,
        "throttle": unused,
        "paused": True,
    }
    assert put(client, f"limits/{user}", {"limit": 9})["user_id"] == user
    retry = {"attempts": 5, "backoff": "linear", "base_seconds": 2.0}
    changed = {"throttle": throttle, "timeout_seconds": 2.5, "retry": retry}
    kind_view = put(client, "kinds/echo", changed)
    assert kind_view["retry"] == retry
    assert (kind_view["throttle"], kind_view["timeout_seconds"]) == (unused, 2.5)
    submit(client, "ada", kind="other")
    assert [one["kind"] for one in client.get("/v1/kinds").json()["kinds"]] == ["echo", "other"]
    put(client, "resources/shopify:*", {"running": 1})
    put(client, "resources/shopify:acme", {"throttle": throttle})
    found = client.get("/v1/resources/shopify:other").json()
    assert (found["set_by"], found["running_limit"]) == ("shopify:*", 1)
    listed = client.get("/v1/resources").json()["resources"]
    assert [one["resource"] for one in listed] == ["shopify:*", "shopify:acme"]
    put(client, "resources/shopify:*", {"running": None})
    assert client.get("/v1/resources/shopify:other").json()["set_by"] is None


def test_answers_show_how_throttles_stand_and_what_waits_and_runs(
    client: httpx.Client, clock: ManualClock
) -> None:
    throttle = {"limit": 2, "seconds": 60}
    paths = ["limits/ada", "limits/ada/kinds/echo", "kinds/echo", "resources/shopify:*"]
    for path in paths:
        put(client, path, {"throttle": throttle})
    for number in range(5):
        submit(client, "ada", payload=number, resources=["shopify:acme"])
    assert len(claim(client, 5)) == 2
    paths[-1] = "resources/shopify:acme"
    reset = clock.now().replace(microsecond=0) + timedelta(seconds=60)

    def states() -> list[tuple[int, datetime]]:
        found = [client.get(f"/v1/{path}").json()["throttle"] for path in paths]
        assert all(one | throttle == one for one in found)
        return [(one["started"], datetime.fromisoformat(one["resets_at"])) for one in found]

    assert states() == [(2, reset)] * 4
    [listed] = client.get("/v1/kinds").json()["kinds"]
    for one in (listed, *(client.get(f"/v1/{path}").json() for path in paths[1:])):
        assert (one["waiting"], one["running"]) == (3, 2)
    prefix = client.get("/v1/resources/shopify:*").json()
    assert client.get("/v1/resources").json()["resources"] == [prefix]
    assert (prefix["throttle"]["started"], prefix["running"]) == (None, None)
    clock.advance(60)
    assert states() == [(0, reset + timedelta(seconds=60))] * 4


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("limits/ada", {"weight": 0}, "to start no job of a user, pause the user"),
        ("limits/ada", {"weight": -1}, "0.01 to 1,000"),
        ("limits/ada", {"weight": 1001}, "0.01 to 1,000"),
        ("limits/ada", {"weight": 0.015}, "two decimals"),
        ("limits/ada", {"weight": "heavy"}, "weight: Expected `float | null`, got `str`"),
        ("limits/ada", {"weight": True}, "weight: Expected `float | null`, got `bool`"),
        ("limits/ada", {"windows": [{"limit": 1, "seconds": 0}]}, "from 1 to 2678400"),
        ("limits/ada", {"windows": [{"limit": 1, "seconds": 31_536_000}]}, "from 1 to 2678400"),
        ("limits/ada", {"windows": [{"limit": 1, "seconds": 1}] * 2}, "the same seconds"),
        (
            "limits/ada",
            {"windows": [{"limit": 1, "seconds": n} for n in range(1, 7)]},
            "at most 5",
        ),
        ("limits/ada", {"throttle": {"limit": 1, "seconds": -5}}, "from 1 to 2678400"),
        ("kinds/echo", {"throttle": {"limit": 1, "seconds": 31_536_000}}, "from 1 to 2678400"),
        ("resources/r", {"throttle": {"limit": 1, "seconds": 0}}, "from 1 to 2678400"),
        ("limits/ada/kinds/echo", {"throttle": {"limit": 1}}, "missing required field `seconds`"),
        ("limits/ada/kinds/echo", {"weight": 1}, "unknown field `weight`"),
        ("limits/ada", {"running": -1}, "from 0 to 1000000000"),
        ("limits/ada", {"paused": "yes"}, "paused: Expected `bool | null`"),
        ("limits/ada", {"throttle": {"limit": 0, "seconds": 1}}, "set paused"),
        ("limits/ada", {}, "Send at least one of limit, running, windows"),
        ("limits/ada", {"plan": ""}, "1 to 255 bytes"),
        ("limits", {"weight": 2}, "/v1/plans/default"),
        ("limits", {"throttle": {"limit": 5, "seconds": 1}}, "/v1/plans/default"),
        ("limits", {"plan": "gold"}, "/v1/plans/default"),
        ("plans/gold", {"plan": "gold"}, "A plan is on no plan"),
        ("resources/shop:*:a", {"running": 1}, "* stands at the end"),
        ("resources/*a", {"running": 1}, "* stands at the end"),
        ("kinds/echo", {}, "Send at least one of"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(
    shared: httpx.Client, path: str, body: Any, says: str
) -> None:
    assert says in problem(shared.put(f"/v1/{path}", json=body), 400)["detail"]


def test_a_weight_that_is_no_number_and_a_plan_that_nobody_made_are_refused(
    shared: httpx.Client,
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = shared.put("/v1/limits/ada", content=b'{"weight": NaN}', headers=headers)
    problem(answer, 400)
    answer = shared.put("/v1/limits/ada", json={"plan": "none"})
    assert "There is no plan 'none'; set its limits first" in problem(answer, 404)["detail"]


def test_a_plan_in_use_and_one_that_nobody_made_are_not_deleted(shared: httpx.Client) -> None:
    put(shared, "plans/used", {"weight": 2})
    put(shared, "limits/eve", {"plan": "used"})
    detail = problem(shared.delete("/v1/plans/used"), 409)["detail"]
    assert detail == "1 user is on the plan 'used'; put them on another plan first."
    put(shared, "limits/eve", {"plan": None})
    assert shared.delete("/v1/plans/used").is_success
    for answer in (shared.delete("/v1/plans/used"), shared.get("/v1/plans/used")):
        assert "There is no plan 'used'" in problem(answer, 404)["detail"]


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (["a", "b", "c", "d"], "at most 3 resources; this one names 4"),
        ([f"shop:{number}" for number in range(10_000)], "Name only those that have limits"),
        (["shopify:*"], "a limit may be for a prefix"),
        ([""], "1 to 255 bytes"),
        (["x" * 256], "1 to 255 bytes"),
        (["a\0b"], "no control characters"),
        ("shop", "Expected `array`"),
        ([5], "Expected `str`"),
    ],
)
def test_resources_that_a_job_cannot_use_are_refused_with_what_to_do(
    shared: httpx.Client, resources: Any, says: str
) -> None:
    job = {"user_id": "ada", "kind": "echo", "payload": 1, "resources": resources}
    assert says in problem(shared.post("/v1/jobs", json=job), 400)["detail"]


def test_more_subjects_with_limits_than_are_kept_in_memory_are_refused(
    server: AppServer, client: httpx.Client
) -> None:
    names = [f"shop:{number}" for number in range(SUBJECTS_MAX)]
    outcomes = server.fairlog.writer.execute_all(
        [limit_resource(name, running=1) for name in names]
    )
    assert all(isinstance(one, LimitsSet) for one in outcomes)
    for path in ("resources/another", "kinds/echo", "plans/gold", "limits/ada/kinds/echo"):
        detail = problem(client.put(f"/v1/{path}", json={"running": 1}), 409)["detail"]
        assert detail.startswith("At most 10,000 kinds, resources, plans and users' kinds")
        assert "remove some, or set one for all resources with the same prefix" in detail
    put(client, "limits/ada", {"running": 1})
    put(client, "resources/shop:0", {"running": None})
    put(client, "resources/shop:*", {"running": 1})
    submit(client, "ada", resources=["shop:0", "shop:1"])
    assert len(claim(client, 5)) == 1


def test_headers_and_problem_name_the_window_that_refused(
    client: httpx.Client, clock: ManualClock
) -> None:
    put(client, "limits", {"windows": [{"limit": 50, "seconds": 3600}]})
    put(client, "limits/ada", {"windows": [{"limit": 1, "seconds": 1}]})
    job = {"user_id": "ada", "kind": "echo", "payload": 1}
    accepted = client.post("/v1/jobs", json=job)
    assert accepted.headers["RateLimit-Policy"] == (
        '"user";q=600;w=60, "global";q=6000;w=60, "user-1s";q=1;w=1, "global-3600s";q=50;w=3600'
    )
    assert accepted.headers["RateLimit"] == (
        '"user";r=599;t=60, "global";r=5999;t=60, "user-1s";r=0;t=1, "global-3600s";r=49;t=3600'
    )
    for _ in range(2):  # the second comes from the refusal cache
        refused = client.post("/v1/jobs", json=job | {"payload": 2})
        body = problem(refused, 429)
        assert body["violated-policies"] == ["user-1s"]
        assert (body["scope"], body["limit"], body["window_seconds"]) == ("user", 1, 1)
        assert refused.headers["Retry-After"] == "1"
        assert refused.headers["RateLimit"].startswith('"user-1s";r=0;t=1, "global-3600s";r=49')
    clock.advance(1)
    submit(client, "ada", payload=2)
