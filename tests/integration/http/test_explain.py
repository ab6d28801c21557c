import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from domain.language.identifiers import Kind, ServerId, WorkerId
from entrypoints.service.worker_polls import LATELY_SECONDS
from projections.queries.counts_ahead import COUNTED_MAX
from tests.support.clock import ManualClock
from tests.support.server import AppServer, claim, problem, submit
from tests.support.waiting import wait_until

SETTINGS = Settings(user_limit=10_000, global_limit=100_000)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return SETTINGS


def submit_many(client: httpx.Client, user_id: str, count: int, **fields: Any) -> list[int]:
    wish = [
        {"user_id": user_id, "kind": "echo", "payload": number, **fields} for number in range(count)
    ]
    answer = client.post("/v1/jobs/batch", json={"jobs": wish}).json()
    return [one["job"]["id"] for one in answer["jobs"]]


def explain(client: httpx.Client, job: int) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job}/explain")
    assert answer.status_code == 200, answer.text
    explanation: dict[str, Any] = answer.json()
    assert explanation["job_id"] == job
    assert explanation["summary"].startswith(f"Job {job} is {explanation['state']}. ")
    assert explanation["summary"].endswith(explanation["reasons"][0]["text"])
    return explanation


def reasons(client: httpx.Client, job: int) -> dict[str, dict[str, Any]]:
    return {reason["code"]: reason for reason in explain(client, job)["reasons"]}


def share_polls(server: AppServer, name: str) -> None:
    fairlog = server.fairlog
    fairlog.worker_polls.share(fairlog.database, fairlog.log, ServerId(name))


def test_the_place_in_the_users_own_line_counts_all_kinds_and_priorities(
    client: httpx.Client,
) -> None:
    a = submit_many(client, "ada", 3, kind="a")
    submit_many(client, "ada", 2, kind="b", priority=5)
    submit_many(client, "bob", 4)
    last = submit(client, "ada", kind="b")["id"]
    submit_many(client, "ada", 2, kind="c", priority=-1)
    assert reasons(client, last)["jobs_ahead"]["jobs_ahead"] == 5
    assert reasons(client, a[1])["jobs_ahead"]["jobs_ahead"] == 3
    assert reasons(client, a[1])["jobs_ahead"]["is_exact"] is True


def test_the_users_ahead_in_the_turn_are_counted(client: httpx.Client) -> None:
    for user in ("ada", "bob", "eve"):
        submit_many(client, user, 2)
    job = submit(client, "zoe")["id"]
    assert reasons(client, job)["users_ahead"]["users_ahead"] == 3
    claim(client, 2)
    assert reasons(client, job)["users_ahead"]["users_ahead"] == 1
    claim(client, 1)
    assert "next" in reasons(client, job)
    assert "users_ahead" not in reasons(client, job)


def test_only_users_are_ahead_whose_jobs_the_same_workers_serve(client: httpx.Client) -> None:
    submit(client, "near", kind="b")
    alone = submit(client, "zoe", kind="z")["id"]
    assert "users_ahead" not in reasons(client, alone)
    assert claim(client, kinds=["a", "c"]) == []  # the worker waits for these from now on
    submit(client, "late", kind="c")
    job = submit(client, "last", kind="a")["id"]
    assert reasons(client, job)["users_ahead"]["users_ahead"] == 1


def test_users_whose_jobs_a_shared_limit_holds_back_are_not_ahead(client: httpx.Client) -> None:
    client.put("/v1/kinds/export", json={"paused": True}).raise_for_status()
    client.put("/v1/resources/shop:*", json={"running": 0}).raise_for_status()
    submit(client, "ada", kind="export")
    submit(client, "bob", kind="mail", resources=["shop:acme"])
    submit(client, "eve", kind="mail")
    job = submit(client, "zoe", kind="mail")["id"]
    assert reasons(client, job)["users_ahead"]["users_ahead"] == 1
    claim(client, 1)  # a worker for any kind
    assert "next" in reasons(client, job)


def test_a_weight_is_named_where_it_decides(client: httpx.Client) -> None:
    client.put("/v1/limits/zoe", json={"weight": 0.5}).raise_for_status()
    job = submit(client, "zoe")["id"]
    submit_many(client, "ada", 3)
    reason = reasons(client, job)["users_ahead"]
    assert (reason["users_ahead"], reason["weight"]) == (1, 0.5)
    assert "of user 'zoe', who has the weight 0.5: users who wait are served in" in reason["text"]
    client.put("/v1/limits/zoe", json={"weight": None}).raise_for_status()
    claim(client, 1)
    assert "next" in reasons(client, job)


def test_a_long_line_is_not_counted_to_its_end(client: httpx.Client) -> None:
    jobs = submit_many(client, "ada", COUNTED_MAX + 2)
    exact = reasons(client, jobs[COUNTED_MAX])["jobs_ahead"]
    assert (exact["jobs_ahead"], exact["is_exact"]) == (COUNTED_MAX, True)
    beyond = reasons(client, jobs[-1])["jobs_ahead"]
    assert (beyond["jobs_ahead"], beyond["is_exact"]) == (COUNTED_MAX, False)
    assert f"more than {COUNTED_MAX} jobs" in beyond["text"]


def test_caps_are_named_with_their_numbers(client: httpx.Client) -> None:
    client.put("/v1/limits/ada", json={"running": 1}).raise_for_status()
    client.put("/v1/kinds/b", json={"running": 1}).raise_for_status()
    submit_many(client, "ada", 2, kind="a")
    held = submit(client, "ada", kind="b")["id"]
    submit(client, "bob", kind="b")
    assert len(claim(client, 9)) == 2
    found = reasons(client, held)
    assert (found["user_cap"]["running"], found["user_cap"]["running_limit"]) == (1, 1)
    assert (found["kind_cap"]["running"], found["kind_cap"]["running_limit"]) == (1, 1)
    assert explain(client, held)["reasons"][0]["code"] == "user_cap"


def test_a_kind_that_nobody_asks_for_has_no_worker(
    server: AppServer, client: httpx.Client, clock: ManualClock
) -> None:
    lonely, ordinary = submit(client, kind="lonely")["id"], submit(client, kind="echo")["id"]
    claim(client, kinds=["other"])
    assert explain(client, lonely)["reasons"][0]["code"] == "no_worker"
    assert [job["id"] for job in claim(client, kinds=["echo"])] == [ordinary]
    behind = submit(client, "bob", kind="echo")["id"]
    assert "workers_busy" in reasons(client, behind)
    assert explain(client, lonely)["reasons"][0]["code"] == "no_worker"
    # While no poll is known: only the running job tells.
    server.fairlog.worker_polls._workers.clear()
    share_polls(server, "test")
    assert reasons(client, behind)["workers_busy"]["asked_seconds_ago"] is None
    clock.advance(LATELY_SECONDS + 1)
    assert explain(client, behind)["reasons"][0]["code"] in {"no_worker_free", "no_worker"}


def test_a_worker_that_waits_is_seen(server: AppServer) -> None:
    client = server.client
    client.put("/v1/kinds/echo", json={"running": 1}).raise_for_status()
    first, second = submit_many(client, "ada", 2)
    assert len(claim(client)) == 1
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(claim, client, 1, worker="w2", kinds=["echo"], wait_seconds=30)
        wait_until(lambda: server.fairlog.work.waiting == 1, "the claim waits")
        assert {"kind_cap", "worker_waiting"} <= set(reasons(client, second))
        client.post(f"/v1/jobs/{first}/complete", json={"attempt": 1}).raise_for_status()
        assert [job["id"] for job in waiting.result()] == [second]


def test_schedules_and_endings_are_explained(client: httpx.Client, clock: ManualClock) -> None:
    job = submit(client, run_at="2026-01-31T12:01:00Z", max_attempts=2)["id"]
    scheduled = explain(client, job)
    assert (scheduled["state"], scheduled["reasons"][0]["code"]) == ("scheduled", "scheduled")
    assert scheduled["reasons"][0]["run_at"] == "2026-01-31T12:01:00Z"
    assert scheduled["reasons"][0]["seconds_left"] == 60
    clock.advance(60)
    wait_until(lambda: len(claim(client)) == 1, "the job is released")
    assert reasons(client, job)["running"]["worker"] == "w1"
    client.post(f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": "no"}).raise_for_status()
    assert 0.5 <= reasons(client, job)["retry_delay"]["seconds_left"] <= 1
    clock.advance(1)
    wait_until(lambda: len(claim(client)) == 1, "the job is released")
    client.post(f"/v1/jobs/{job}/fail", json={"attempt": 2, "error": "no"}).raise_for_status()
    assert reasons(client, job)["failed"]["failure"] == "error"
    client.post(f"/v1/jobs/{job}/retry").raise_for_status()
    assert "requeued" in reasons(client, job)
    client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    assert reasons(client, job)["cancelled"]["was"] == "queued"


def test_an_ended_job_names_the_turns_that_it_waited_for(
    client: httpx.Client, clock: ManualClock
) -> None:
    submit_many(client, "ada", 2)
    submit_many(client, "bob", 1)
    last = submit(client, "zoe")["id"]
    clock.advance(4)
    claimed = claim(client, 9)
    assert claimed[2]["id"] == last
    client.post(f"/v1/jobs/{last}/complete", json={"attempt": 1}).raise_for_status()
    waited = reasons(client, last)["waited"]
    assert waited["text"] == (
        "While it waited for attempt 1, 2 jobs of 2 other users were started."
    )
    assert (waited["jobs_started"], waited["own_jobs_started"]) == (2, 0)
    assert reasons(client, last)["done"]["waited_seconds"] == 4


def test_after_a_retry_by_hand_the_wait_counts_from_the_retry(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client, max_attempts=1)["id"]
    claim(client)
    client.post(f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": "no"}).raise_for_status()
    clock.advance(100)
    client.post(f"/v1/jobs/{job}/retry").raise_for_status()
    submit(client, "bob")
    clock.advance(3)
    claim(client, 2)
    client.post(f"/v1/jobs/{job}/complete", json={"attempt": 2}).raise_for_status()
    explained = reasons(client, job)
    assert explained["done"]["waited_seconds"] == explained["waited"]["waited_seconds"] == 3
    assert "3.0 s after it was retried by hand." in explained["done"]["text"]


def test_an_unknown_job_cannot_be_explained(client: httpx.Client) -> None:
    assert problem(client.get("/v1/jobs/1042/explain"), 404)["job_id"] == 1042


def test_a_dead_worker_is_told_from_a_living_one(
    server: AppServer, client: httpx.Client, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = time.monotonic()  # no real time passes until the poll is shared
    monkeypatch.setattr(server.fairlog.worker_polls, "_now", lambda: here)
    held, waits = submit_many(client, "ada", 2)
    assert [job["id"] for job in claim(client, kinds=["echo"])] == [held]
    assert reasons(client, held)["running"]["worker_is_alive"] is True
    assert "alive" in explain(client, held)["summary"]
    share_polls(server, "another")
    server.fairlog.worker_polls._workers.clear()  # only the table knows of the worker from here on
    server.fairlog.worker_polls._shared = frozenset()
    client.put("/v1/kinds/echo", json={"running": 1}).raise_for_status()
    clock.advance(SETTINGS.lease_seconds - 1)
    assert reasons(client, held)["running"]["worker_is_alive"] is True
    clock.advance(LATELY_SECONDS)
    wait_until(lambda: "running" not in reasons(client, held), "the lease ends")
    why = explain(client, waits)
    assert why["reasons"][0]["code"] == "no_worker"
    assert "Worker 'w1' took it, and has been silent for 89 s." in why["summary"]


def test_a_worker_that_polls_another_server_is_alive_here_too(
    database_url: str, server: AppServer, clock: ManualClock
) -> None:
    waiting = submit(server.client, kind="elsewhere")["id"]
    with AppServer(database_url, SETTINGS, clock) as other:
        with other.fairlog.worker_polls.claiming(WorkerId("w9"), [Kind("elsewhere")]):
            share_polls(other, "other")
        assert "worker_waiting" in reasons(server.client, waiting)


def test_a_paused_kind_and_a_mistyped_one_say_so(client: httpx.Client) -> None:
    client.put("/v1/kinds/report", json={"running": 0}).raise_for_status()
    paused = submit(client, kind="report")["id"]
    mistyped = submit(client, kind="thumbnial")["id"]
    claim(client, kinds=["thumbnail", "report"])
    assert explain(client, paused)["reasons"][0]["code"] == "kind_cap"
    assert "The kind 'report' is paused" in explain(client, paused)["summary"]
    assert "Workers ask for 'thumbnail'" in explain(client, mistyped)["summary"]
