"""Schedules over HTTP: how they are shown, run, triggered and backfilled, and bad input."""

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from entrypoints.use_cases import time_travel
from tests.support.clock import ManualClock
from tests.support.server import audit, claim, log_position, problem
from tests.support.waiting import wait_until

NIGHTLY = {
    "cron": "30 3 * * *",
    "time_zone": "Europe/Berlin",
    "user_id": "ada",
    "kind": "echo",
    "payload": {"report": "daily"},
}
MINUTELY = {"every_seconds": 60, "user_id": "ada", "kind": "echo"}


def put(client: httpx.Client, name: str, body: Any) -> Any:
    path = f"/v1/schedules/{quote(name, safe='')}"
    answer = client.put(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == client.get(path).json()
    return answer.json()


def get(client: httpx.Client, name: str) -> Any:
    return client.get(f"/v1/schedules/{name}").json()


def until(client: httpx.Client, name: str, **fields: Any) -> Any:
    """Wait until the timer has decided a run, and return the schedule with it."""

    def last_run() -> dict[str, Any]:
        return get(client, name)["last_run"] or {}

    wait_until(lambda: fields.items() <= last_run().items(), f"{fields}; it was {last_run()}")
    return get(client, name)


def explained(client: httpx.Client, job_id: int) -> dict[str, Any]:
    """The reason that names the schedule of a job."""
    reasons = client.get(f"/v1/jobs/{job_id}/explain").json()["reasons"]
    [reason] = [one for one in reasons if one["code"] == "schedule"]
    return dict(reason)


def jobs(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/v1/jobs").json()["jobs"])


def test_a_schedule_is_shown_as_it_was_set_with_its_next_times(client: httpx.Client) -> None:
    shown = put(client, "nightly", NIGHTLY)
    assert {name: shown[name] for name in NIGHTLY} == NIGHTLY
    assert (shown["every_seconds"], shown["overlap"], shown["paused"]) == (None, "skip", False)
    assert (shown["catch_up_seconds"], shown["jitter_seconds"]) == (3600, 0)
    assert shown["next_run_at"] == "2026-02-01T02:30:00Z"
    assert shown["next_due_at"][:2] == ["2026-02-01T02:30:00Z", "2026-02-02T02:30:00Z"]
    assert (shown["last_run"], shown["last_job_id"], shown["backfill"]) == (None, None, None)
    name = "tägliche Auswertung/1"
    assert put(client, name, NIGHTLY)["name"] == name
    page = client.get("/v1/schedules", params={"limit": 1}).json()
    assert [one["name"] for one in page["schedules"]] == ["nightly"]
    page = client.get("/v1/schedules", params={"cursor": page["next"]}).json()
    assert ([one["name"] for one in page["schedules"]], page["next"]) == ([name], None)


def test_the_timer_submits_a_job_at_each_due_time(client: httpx.Client, clock: ManualClock) -> None:
    put(client, "minutely", MINUTELY)
    assert jobs(client) == []
    clock.advance(60)
    shown = until(client, "minutely", outcome="submitted")
    [job] = jobs(client)
    assert (job["user_id"], job["kind"], job["state"]) == ("ada", "echo", "queued")
    assert shown["last_run"] == {
        "due_at": "2026-01-31T12:01:00Z",
        "decided_at": "2026-01-31T12:01:00Z",
        "cause": "time",
        "outcome": "submitted",
        "job_id": job["id"],
        "reason": None,
    }
    assert (shown["last_job_id"], shown["next_run_at"]) == (job["id"], "2026-01-31T12:02:00Z")
    assert explained(client, job["id"]) == {
        "code": "schedule",
        "text": "The schedule 'minutely' submitted it for the run of 2026-01-31T12:01:00Z.",
        "schedule": "minutely",
        "due_at": "2026-01-31T12:01:00Z",
        "cause": "time",
    }
    [given] = claim(client)
    assert given["payload"] is None
    clock.advance(60)
    until(client, "minutely", outcome="overlap")
    types = [event["type"] for event in audit(client)]
    assert types.count("ScheduleFired") == 2


def test_a_buffered_run_follows_when_the_job_has_ended(
    client: httpx.Client, clock: ManualClock
) -> None:
    put(client, "m", MINUTELY | {"overlap": "buffer_one"})
    for outcome in ("submitted", "buffered", "overlap"):
        clock.advance(60)
        shown = until(client, "m", outcome=outcome)
    assert shown["buffered_at"] == "2026-01-31T12:02:00Z"
    [job] = claim(client)
    client.post(f"/v1/jobs/{job['id']}/complete", json={"attempt": job["attempt"]})
    shown = until(client, "m", cause="buffer", outcome="submitted", due_at=shown["buffered_at"])
    assert (shown["buffered_at"], shown["last_job_id"] > job["id"]) == (None, True)


def test_a_trigger_answers_what_came_of_it(client: httpx.Client) -> None:
    put(client, "nightly", NIGHTLY | {"paused": True})
    answer = client.post("/v1/schedules/nightly/trigger")
    assert answer.status_code == 200
    run = answer.json()["run"]
    assert (run["cause"], run["outcome"]) == ("trigger", "submitted")
    assert client.get(f"/v1/jobs/{run['job_id']}").json()["state"] == "queued"
    text = "The schedule 'nightly' submitted it for a run that was triggered at "
    assert explained(client, run["job_id"])["text"] == f"{text}{run['due_at']}."
    again = client.post("/v1/schedules/nightly/trigger").json()["run"]
    assert (again["outcome"], again["job_id"]) == ("overlap", None)


def test_a_backfill_runs_a_span(client: httpx.Client, clock: ManualClock) -> None:
    put(client, "m", MINUTELY | {"paused": True})
    clock.advance(600)
    span = {"from": "2026-01-31T12:02:00Z", "until": "2026-01-31T12:05:00Z"}
    answer = client.post("/v1/schedules/m/backfill", json=span)
    assert answer.status_code == 202
    assert answer.json()["backfill"] == {"next_at": span["from"], "until": span["until"]}
    wait_until(lambda: get(client, "m")["backfill"] is None, "the backfill ends")
    assert len(jobs(client)) == 3
    assert get(client, "m")["last_run"]["due_at"] == "2026-01-31T12:04:00Z"


def test_a_deleted_schedule_is_not_found(client: httpx.Client) -> None:
    put(client, "nightly", NIGHTLY)
    assert client.delete("/v1/schedules/nightly").status_code == 204
    for answer in (
        client.get("/v1/schedules/nightly"),
        client.delete("/v1/schedules/nightly"),
        client.post("/v1/schedules/nightly/trigger"),
    ):
        assert "PUT /v1/schedules" in problem(answer, 404)["detail"]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"cron": "0 0 31 2 *"}, 400, "no such day is in the month"),
        ({"cron": "* * *"}, 400, "five fields"),
        ({"time_zone": "Mars/Olympus"}, 400, "Europe/Berlin"),
        ({"every_seconds": 0, "cron": None}, 400, "from 1 to 31622400"),
        ({"every_seconds": 10**9, "cron": None}, 400, "from 1 to 31622400"),
        ({"every_seconds": 5}, 400, "not both"),
        ({"cron": None}, 400, "either cron"),
        ({"payload": "x" * 20_000}, 413, "Store it elsewhere"),
        ({"catch_up_seconds": 0}, 400, "from 10 to 31622400"),
        ({"jitter_seconds": 90_000}, 400, "from 0 to 86400"),
        ({"overlap": "queue"}, 400, "overlap"),
        ({"user_id": ""}, 400, "1 to 255 bytes"),
        ({"crom": "* * * * *"}, 400, "crom"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_what_to_do(
    shared: httpx.Client, change: dict[str, Any], status: int, says: str
) -> None:
    answer = shared.put("/v1/schedules/bad", json=NIGHTLY | change)
    assert says in problem(answer, status)["detail"]
    assert shared.get("/v1/schedules/bad").status_code == 404


def test_a_name_may_hold_slashes_and_the_words_of_the_routes(client: httpx.Client) -> None:
    for name in ("a/b", "trigger", "a/trigger", "backfill/x"):
        put(client, name, NIGHTLY)
        answer = client.post(f"/v1/schedules/{quote(name, safe='')}/trigger")
        assert answer.json()["run"]["outcome"] == "submitted"


@pytest.mark.parametrize("name", ["x" * 256, "a%00b", "a%0Ab"])
def test_a_name_that_cannot_be_is_refused(shared: httpx.Client, name: str) -> None:
    problem(shared.put(f"/v1/schedules/{name}", json=NIGHTLY), 400)


@pytest.mark.parametrize(
    ("span", "says"),
    [
        ({"from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "later than from"),
        ({"from": "2020-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "At most 1,000"),
        ({"from": "2030-01-01T00:00:00Z", "until": "2031-01-01T00:00:00Z"}, "no due time"),
    ],
)
def test_a_span_that_cannot_be_is_refused(
    shared: httpx.Client, span: dict[str, str], says: str
) -> None:
    put(shared, "span", NIGHTLY)
    answer = shared.post("/v1/schedules/span/backfill", json=span)
    assert answer.status_code in {400, 422}
    assert says in answer.json()["detail"]


def test_the_past_tells_what_was_set_and_the_latest_run_without_the_payload(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, "nightly", NIGHTLY)
    url = "https://example.org/hooks"
    assert client.put("/v1/callbacks/orders", json={"url": url}).status_code == 200
    first = log_position(client)
    run = client.post("/v1/schedules/nightly/trigger").json()["run"]
    second = log_position(client)
    put(client, "minutely", MINUTELY)
    put(client, "nightly", NIGHTLY | {"paused": True})
    assert client.delete("/v1/callbacks/orders").status_code == 204
    third = log_position(client)
    assert client.delete("/v1/schedules/nightly").status_code == 204

    def then(position: int) -> Any:
        return client.get("/v1/stats", params={"as_of": position}).json()

    [nightly] = then(first)["schedules"]
    assert nightly["last_run"] is None
    assert nightly["next_due_at"] is not None
    assert "payload" not in nightly
    [set_by] = [one for one in audit(client) if one["position"] == nightly["set_position"]]
    assert set_by["data"]["payload"] == '{"report":"daily"}'
    assert [one["url"] for one in then(first)["callbacks"]] == [url]
    assert then(second)["schedules"][0]["last_run"]["job_id"] == run["job_id"]
    minutely, nightly = then(third)["schedules"]
    assert (minutely["paused"], nightly["paused"]) == (False, True)
    assert nightly["next_due_at"] is None
    assert nightly["last_job_id"] == run["job_id"]
    assert then(third)["callbacks"] == []
    assert [one["name"] for one in then(log_position(client))["schedules"]] == ["minutely"]
    monkeypatch.setattr(time_travel, "SCHEDULES_SHOWN_MAX", 1)
    few = then(third)
    assert ([one["name"] for one in few["schedules"]], few["schedules_total"]) == (["minutely"], 2)
