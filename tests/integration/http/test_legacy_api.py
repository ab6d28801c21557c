"""The three calls of the system that Fairlog grew out of, in its documented shapes."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from tests.support.clock import ManualClock
from tests.support.server import AppServer, claim, log_position, problem, submit

ANSWER = {"job_id", "state", "result", "error_message", "idempotency_key", "is_duplicate"}
JOB = {
    "id",
    "user_id",
    "payload",
    "idempotency_key",
    "state",
    "result",
    "error_message",
    "last_served",
    "created_at",
    "updated_at",
}


@pytest.fixture
def server(database_url: str, clock: ManualClock) -> Iterator[AppServer]:
    with AppServer(database_url, Settings(user_limit=40), clock) as server:
        yield server


def send(client: httpx.Client, user_id: str = "ada", payload: str = "p") -> dict[str, Any]:
    answer = client.post("/jobs/submit_job", json={"user_id": user_id, "payload": payload})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == ANSWER
    return body


def status(client: httpx.Client, job_id: int) -> dict[str, Any]:
    answer = client.get(f"/jobs/job_status/{job_id}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == ANSWER
    return body


def dashboard(client: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/jobs/dashboard").json()
    assert set(body) == {"stats", "running_jobs", "failed_jobs", "recent_jobs"}
    for job in body["running_jobs"] + body["failed_jobs"] + body["recent_jobs"]:
        assert set(job) == JOB
    return body


def end(client: httpx.Client, call: str, **body: Any) -> int:
    """Run the next job to its end; its id."""
    [job] = claim(client)
    answer = client.post(f"/v1/jobs/{job['id']}/{call}", json={"attempt": job["attempt"]} | body)
    assert answer.status_code == 200, answer.text
    return int(job["id"])


def test_a_job_is_submitted_and_its_status_asked_until_it_is_done(client: httpx.Client) -> None:
    sent = send(client)
    key = sent["idempotency_key"]
    assert sent == {
        "job_id": 2,
        "state": "queued",
        "result": None,
        "error_message": None,
        "idempotency_key": key,
        "is_duplicate": False,
    }
    assert isinstance(key, str)
    assert status(client, 2) == sent
    claim(client)
    assert status(client, 2)["state"] == "running"
    client.post("/v1/jobs/2/complete", json={"attempt": 1, "result": "p"})
    assert status(client, 2) == sent | {"state": "done", "result": "p"}


def test_the_same_payload_again_is_the_same_job_for_the_same_user_alone(
    client: httpx.Client,
) -> None:
    first = send(client)
    assert send(client) == first | {"is_duplicate": True}
    assert send(client, "bob")["is_duplicate"] is False


def test_its_jobs_and_ours_are_the_same_jobs(client: httpx.Client) -> None:
    sent = send(client)
    job = client.get(f"/v1/jobs/{sent['job_id']}").json()
    assert (job["kind"], job["payload"]) == ("echo", "p")
    assert (
        client.post("/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": "p"}).status_code
        == 200
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [("text", "text"), ({"type": "E", "message": "m"}, "m"), ([1, "ü"], '[1,"ü"]')],
)
def test_a_failed_job_says_why(client: httpx.Client, error: Any, message: str) -> None:
    send(client)
    job = end(client, "fail", error=error, retry=False)
    assert status(client, job)["state"] == "failed"
    assert status(client, job)["error_message"] == message


def test_a_result_that_is_no_text_is_told_as_json(client: httpx.Client) -> None:
    send(client)
    assert status(client, end(client, "complete", result={"a": [1]}))["result"] == '{"a":[1]}'


def test_states_that_it_had_not_are_told_in_its_words(client: httpx.Client) -> None:
    scheduled = submit(client, run_at="2027-01-01T00:00:00Z")["id"]
    assert status(client, scheduled)["state"] == "queued"
    client.post(f"/v1/jobs/{scheduled}/cancel")
    cancelled = status(client, scheduled)
    assert (cancelled["state"], cancelled["error_message"]) == ("failed", "cancelled")


@pytest.mark.parametrize("job_id", [1, 99, 0, -1, 2**63 - 1, 2**63, 2**70])
def test_an_unknown_job_is_not_found_in_the_same_shape(shared: httpx.Client, job_id: int) -> None:
    send(shared)
    assert status(shared, job_id) == {
        "job_id": job_id,
        "state": "not_found",
        "result": None,
        "error_message": "Job not found",
        "idempotency_key": None,
        "is_duplicate": False,
    }


def test_over_the_limit_it_is_refused_in_the_same_shape(
    client: httpx.Client, clock: ManualClock
) -> None:
    for number in range(40):
        send(client, payload=str(number))
    clock.advance(15)
    refused = client.post("/jobs/submit_job", json={"user_id": "ada", "payload": "more"})
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "45"
    assert refused.headers["RateLimit"] == '"user";r=0;t=45'
    assert set(refused.json()) == ANSWER
    assert refused.json()["state"] == "failed"
    assert "limit of 40" in refused.json()["error_message"]


def test_the_dashboard_of_an_empty_service_is_empty(client: httpx.Client) -> None:
    assert dashboard(client) == {
        "stats": {
            "total_jobs": 0,
            "queued_count": 0,
            "running_count": 0,
            "done_count": 0,
            "failed_count": 0,
        },
        "running_jobs": [],
        "failed_jobs": [],
        "recent_jobs": [],
    }


def test_the_dashboard_counts_jobs_and_shows_the_newest(
    client: httpx.Client, clock: ManualClock
) -> None:
    ids = [send(client, payload=str(number))["job_id"] for number in range(25)]
    failed = [end(client, "fail", error=f"e{number}", retry=False) for number in range(11)]
    done = end(client, "complete", result="r")
    clock.advance(1)
    running = [job["id"] for job in claim(client, 2)]
    shown = dashboard(client)
    assert shown["stats"] == {
        "total_jobs": 25,
        "queued_count": 11,
        "running_count": 2,
        "done_count": 1,
        "failed_count": 11,
    }
    assert [job["id"] for job in shown["running_jobs"]] == running[::-1]
    assert [job["id"] for job in shown["failed_jobs"]] == failed[:0:-1]
    assert [job["id"] for job in shown["recent_jobs"]] == ids[:4:-1]
    by_id = {job["id"]: job for job in shown["recent_jobs"]}
    assert by_id[done] | {"idempotency_key": None} == {
        "id": done,
        "user_id": "ada",
        "payload": "11",
        "idempotency_key": None,
        "state": "done",
        "result": "r",
        "error_message": None,
        "last_served": "2026-01-31T12:00:00Z",
        "created_at": "2026-01-31T12:00:00Z",
        "updated_at": "2026-01-31T12:00:00Z",
    }
    assert by_id[running[0]]["last_served"] == "2026-01-31T12:00:01Z"
    assert by_id[ids[-1]]["last_served"] is None
    assert shown["failed_jobs"][0]["error_message"] == "e10"


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "ada"},
        {"payload": "p"},
        {"user_id": "ada", "payload": 1},
        {"user_id": "ada", "payload": None},
        {"user_id": "", "payload": "p"},
        {"user_id": "ada", "payload": "p", "priority": 1},
        [],
    ],
    ids=str,
)
def test_a_bad_submission_is_refused(shared: httpx.Client, body: Any) -> None:
    before = log_position(shared)
    problem(shared.post("/jobs/submit_job", json=body), 400)
    assert log_position(shared) == before
