"""Answers that surprised newcomers, one test each."""

from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from tests.support.clock import ManualClock
from tests.support.server import AppServer, audit, claim, problem, submit
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(user_limit=5, lease_seconds=10)


def post(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": 1} | fields)


def state_of(client: httpx.Client, job: int) -> str:
    return str(client.get(f"/v1/jobs/{job}").json()["state"])


# A forgotten kind


def test_a_submission_without_a_kind_is_refused_with_the_kinds_to_try(client: httpx.Client) -> None:
    forgotten = {"user_id": "ada", "payload": 1}
    detail = problem(client.post("/v1/jobs", json=forgotten), 400)["detail"]
    assert detail == (
        "kind is missing: name the handler that runs the job; built in for trying out are echo, "
        "sleep and fail."
    )
    batch = {"jobs": [forgotten, forgotten | {"kind": "echo"}]}
    first, second = client.post("/v1/jobs/batch", json=batch).json()["jobs"]
    assert (first["status"], first["problem"]["detail"]) == (400, detail)
    assert second["status"] == 202


def test_the_calls_of_the_original_are_an_echo_still(client: httpx.Client) -> None:
    sent = client.post("/jobs/submit_job", json={"user_id": "ada", "payload": "p"}).json()
    assert client.get(f"/v1/jobs/{sent['job_id']}").json()["kind"] == "echo"


# Digests


def test_a_submission_with_other_options_is_another_job(
    client: httpx.Client, clock: ManualClock
) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"run_at": "2026-01-31T13:00:00Z"},
        {"run_at": "2026-01-31T14:00:00Z"},
        {"expires_at": "2026-01-31T13:00:00Z"},
        {"priority": 1},
        {"timeout_seconds": 5},
        {"max_attempts": 1},
    ]
    for one in options:
        assert post(client, **one).status_code == 202, one
        clock.advance(60)
    for one in options:
        assert post(client, **one).json()["is_duplicate"], one


def test_a_failed_or_cancelled_job_does_not_swallow_the_next_one(client: httpx.Client) -> None:
    cancelled = post(client).json()["id"]
    assert client.post(f"/v1/jobs/{cancelled}/cancel").is_success
    failed = post(client)
    assert failed.status_code == 202
    [job] = claim(client)
    report = {"attempt": job["attempt"], "error": "no", "retry": False}
    assert client.post(f"/v1/jobs/{job['id']}/fail", json=report).is_success
    done = post(client)
    assert done.status_code == 202
    [job] = claim(client)
    report = {"attempt": job["attempt"], "result": 1}
    assert client.post(f"/v1/jobs/{job['id']}/complete", json=report).is_success
    again = post(client)
    assert (again.status_code, again.json()["id"]) == (200, done.json()["id"])


def test_an_explicit_key_means_its_job_even_after_a_failure(client: httpx.Client) -> None:
    job = post(client, idempotency_key="k").json()["id"]
    assert client.post(f"/v1/jobs/{job}/cancel").is_success
    assert post(client, idempotency_key="k").json()["id"] == job


def test_deduplication_can_be_turned_off_for_a_submission(client: httpx.Client) -> None:
    jobs = [post(client, deduplicate=False) for _ in range(3)]
    assert [job.status_code for job in jobs] == [202, 202, 202]
    assert len({job.json()["id"] for job in jobs}) == 3
    assert post(client).status_code == 202  # none of them stands for it
    assert post(client).status_code == 200
    both = post(client, deduplicate=False, idempotency_key="k")
    assert "send only one" in problem(both, 400)["detail"]


def test_deduplication_can_be_turned_off_for_a_server(
    database_url: str, clock: ManualClock
) -> None:
    with AppServer(database_url, Settings(deduplicate=False), clock) as server:
        assert [post(server.client).status_code for _ in range(2)] == [202, 202]
        asking = [post(server.client, deduplicate=True).status_code for _ in range(2)]
        assert asking == [202, 200]
        keyed = [post(server.client, idempotency_key="k").status_code for _ in range(2)]
        assert keyed == [202, 200]
        legacy = {"user_id": "ada", "payload": "p"}
        sent = [server.client.post("/jobs/submit_job", json=legacy).json() for _ in range(2)]
        assert [one["is_duplicate"] for one in sent] == [False, True]


def test_a_duplicate_says_of_which_job_since_when_and_why(client: httpx.Client) -> None:
    first = post(client).json()
    assert "duplicate" not in first
    again = post(client).json()["duplicate"]
    assert again["job_id"] == first["id"]
    assert again["submitted_at"] == first["submitted_at"]
    assert again["expires_at"] == "2026-02-01T12:00:00Z"
    assert again["by"] == "digest"
    assert f"job {first['id']}, submitted at 2026-01-31T12:00:00Z" in again["reason"]
    assert '"deduplicate": false' in again["reason"]

    post(client, idempotency_key="k", payload=2)
    batch = {
        "jobs": [{"user_id": "ada", "kind": "echo", "payload": 2, "idempotency_key": "k"}],
    }
    [outcome] = client.post("/v1/jobs/batch", json=batch).json()["jobs"]
    assert outcome["job"]["duplicate"]["by"] == "idempotency_key"
    assert "The idempotency key 'k' identifies job" in outcome["job"]["duplicate"]["reason"]
    assert "duplicate" not in client.get(f"/v1/jobs/{first['id']}").json()


# Quota


def test_a_duplicate_uses_nothing_up_and_its_decision_says_so(client: httpx.Client) -> None:
    first = post(client)
    for _ in range(7):
        again = post(client)
        assert again.json()["is_duplicate"]
        assert again.headers["RateLimit"] == first.headers["RateLimit"]
    assert client.get("/v1/limits/ada").json()["used"] == 1
    assert client.get("/v1/limits").json()["used"] == 1
    decisions = audit(client, type="RateLimitDecided")
    assert [one["data"].get("count", 1) for one in decisions] == [1] + [0] * 7
    assert {(one["data"]["used"], one["data"]["global_used"]) for one in decisions} == {(1, 1)}
    for number in range(4):
        assert post(client, payload=f"new {number}").status_code == 202
    # The limit is looked at first, as in the original.
    problem(post(client), 429)


# Errors


def test_each_failure_has_a_type_a_message_and_its_attempt(
    client: httpx.Client, clock: ManualClock
) -> None:
    lost = submit(client, max_attempts=2)["id"]
    claim(client)
    clock.advance(10)
    wait_until(lambda: state_of(client, lost) == "queued", "the lease is lost")
    view = client.get(f"/v1/jobs/{lost}").json()
    assert view["error"]["type"] == "LeaseLost"
    assert "sent no heartbeat" in view["error"]["message"]
    assert view["error"]["attempt"] == 1
    assert view["failure"] == {
        "attempt": 1,
        "reason": "lease_lost",
        "type": "LeaseLost",
        "message": view["error"]["message"],
    }
    claim(client)
    clock.advance(10)
    wait_until(lambda: state_of(client, lost) == "failed", "it is lost again")
    assert client.get(f"/v1/jobs/{lost}").json()["error"]["attempt"] == 2

    late = submit(client, payload="late", timeout_seconds=5, max_attempts=1)["id"]
    claim(client)
    clock.advance(5)
    wait_until(lambda: state_of(client, late) == "failed", "it runs too long")
    [listed] = client.get("/v1/jobs", params={"limit": 1}).json()["jobs"]
    assert listed["error"] == {
        "type": "TimeoutError",
        "message": "Attempt 1 ran longer than its time-out of 5 s.",
        "attempt": 1,
    }
    assert listed["failure"]["reason"] == "timed_out"


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        ({"type": "KeyError", "message": "'x'", "traceback": "…"}, "KeyError", "'x'"),
        ("broken", "Error", "broken"),
        ({"code": 5}, "Error", '{"code":5}'),
    ],
    ids=["exception", "text", "object"],
)
def test_a_reported_error_is_kept_and_summarized(
    client: httpx.Client, error: object, name: str, message: str
) -> None:
    job = submit(client)["id"]
    [claimed] = claim(client)
    assert client.get(f"/v1/jobs/{job}").json()["failure"] is None
    report = {"attempt": claimed["attempt"], "error": error}
    view = client.post(f"/v1/jobs/{job}/fail", json=report).json()
    assert view["error"] == error
    assert view["failure"] == {"attempt": 1, "reason": "error", "type": name, "message": message}


# Lists


def ids(client: httpx.Client, **conditions: object) -> list[int]:
    """Return the jobs of all pages."""
    found: list[int] = []
    cursor = None
    while True:
        params: dict[str, Any] = conditions if cursor is None else conditions | {"cursor": cursor}
        page = client.get("/v1/jobs", params=params)
        assert page.is_success, page.text
        found += [job["id"] for job in page.json()["jobs"]]
        cursor = page.json()["next"]
        if cursor is None:
            return found


def test_jobs_are_found_by_kind_time_and_error(client: httpx.Client, clock: ManualClock) -> None:
    one = submit(client, kind="export", max_attempts=1)["id"]
    [job] = claim(client)
    report = {"attempt": job["attempt"], "error": {"type": "IOError", "message": "disk full"}}
    assert client.post(f"/v1/jobs/{one}/fail", json=report).is_success
    clock.advance(60)
    two = submit(client, kind="export", max_attempts=1)["id"]
    claim(client)
    clock.advance(60)
    wait_until(lambda: state_of(client, two) == "failed", "its lease is lost")
    three = submit(client, "bob", kind="mail")["id"]

    assert ids(client, kind="export") == [two, one]
    assert ids(client, kind="export", user_id="bob") == []
    assert ids(client, kind="export", limit=1) == [two, one]
    assert ids(client, since="2026-01-31T12:01:00Z") == [three, two]
    assert ids(client, until="2026-01-31T12:02:00Z") == [two, one]
    assert ids(client, since="2026-01-31T12:00:01Z", until="2026-01-31T12:02:00Z") == [two]
    assert ids(client, since="2026-01-31T13:00:00+01:00", kind="mail") == [three]
    assert ids(client, error_contains="disk") == [one]
    assert ids(client, error_contains="no heartbeat", state="failed") == [two]
    assert ids(client, error_contains="LeaseLost", kind="export") == [two]
    assert ids(client, error_contains="nothing of the kind") == []


def test_an_unknown_parameter_is_refused_with_the_nearest_one(client: httpx.Client) -> None:
    detail = problem(client.get("/v1/jobs", params={"error_contain": "x"}), 400)["detail"]
    assert "the nearest is error_contains" in detail
    detail = problem(client.get("/v1/jobs", params={"kinds": "x"}), 400)["detail"]
    assert "the nearest is kind" in detail
