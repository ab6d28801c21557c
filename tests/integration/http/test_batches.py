"""Many at once: submissions, and outcomes of jobs."""

from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from tests.support.server import audit, claim, log_position, problem, submit

MIB = 1024 * 1024
SETTINGS = Settings(user_limit=2000, global_limit=100_000)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return SETTINGS


def submit_all(client: httpx.Client, jobs: list[Any]) -> list[dict[str, Any]]:
    answer = client.post("/v1/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 200, answer.text
    outcomes: list[dict[str, Any]] = answer.json()["jobs"]
    return outcomes


def settle(client: httpx.Client, jobs: list[Any], worker: str = "w1") -> list[dict[str, Any]]:
    answer = client.post("/v1/claims/complete", json={"worker": worker, "jobs": jobs})
    assert answer.status_code == 200, answer.text
    outcomes: list[dict[str, Any]] = answer.json()["jobs"]
    return outcomes


# Submissions


def test_each_submission_of_a_batch_has_its_outcome_in_its_place(client: httpx.Client) -> None:
    client.put("/v1/limits/eve", json={"limit": 0})
    outcomes = submit_all(
        client,
        [
            {"user_id": "ada", "kind": "echo", "payload": 1, "idempotency_key": "k"},
            {"user_id": "", "kind": "echo", "payload": 1},
            {"user_id": "eve", "kind": "echo", "payload": 1},
            {"user_id": "ada", "kind": "echo", "payload": 1, "idempotency_key": "k"},
            {"user_id": "ada", "kind": "echo", "payload": 2, "idempotency_key": "k"},
            {"user_id": "bob", "kind": "echo", "payload": {"b": 1}},
        ],
    )
    assert [one["status"] for one in outcomes] == [202, 400, 429, 200, 422, 202]
    first, empty, limited, repeated, reused, last = outcomes
    assert (first["job"]["id"], first["job"]["is_duplicate"]) == (repeated["job"]["id"], False)
    assert repeated["job"]["is_duplicate"] is True
    assert "problem" not in first
    assert "job" not in empty
    assert empty["problem"]["status"] == 400
    assert limited["problem"]["scope"] == "user"
    assert limited["problem"]["limit"] == 0
    assert reused["problem"]["job_id"] == first["job"]["id"]
    stored = client.get(f"/v1/jobs/{last['job']['id']}").json()
    assert last["job"] == stored | {"is_duplicate": False}


@pytest.mark.parametrize(
    "bad",
    [
        {"user_id": "ada", "kind": "echo", "payload": 1, "colour": "red"},
        {"user_id": "ada"},
        {"user_id": 5, "kind": "echo", "payload": 1},
        {"user_id": "ada", "kind": "echo", "payload": 1, "priority": "high"},
        {"user_id": "ada", "kind": "echo", "payload": 1, "run_at": "tomorrow"},
        {"user_id": "u" * 256, "kind": "echo", "payload": 1},
        "no object",
        None,
        [],
    ],
)
def test_a_bad_submission_costs_its_neighbours_nothing(shared: httpx.Client, bad: Any) -> None:
    user = f"beside {str(bad)[:100]}"
    good = {"user_id": user, "kind": "echo", "payload": "good"}
    outcomes = submit_all(shared, [good | {"kind": "a"}, bad, good | {"kind": "b"}])
    assert [one["status"] for one in outcomes] == [202, 400, 202]
    assert outcomes[1]["problem"]["detail"].endswith(".")
    assert len(shared.get("/v1/jobs", params={"user_id": user}).json()["jobs"]) == 2


def test_a_payload_that_is_too_large_costs_its_neighbours_nothing(client: httpx.Client) -> None:
    jobs = [{"user_id": "ada", "kind": "echo", "payload": text} for text in ("a", "x" * MIB, "b")]
    assert [one["status"] for one in submit_all(client, jobs)] == [202, 413, 202]


def test_a_thousand_jobs_are_submitted_at_once_in_their_order(client: httpx.Client) -> None:
    outcomes = submit_all(
        client, [{"user_id": "ada", "kind": "echo", "payload": n} for n in range(1000)]
    )
    assert [one["status"] for one in outcomes] == [202] * 1000
    ids = [one["job"]["id"] for one in outcomes]
    assert ids == sorted(set(ids))
    assert [one["job"]["payload"] for one in outcomes] == list(range(1000))
    listed = client.get("/v1/jobs", params={"limit": 1000}).json()
    assert [job["id"] for job in listed["jobs"]] == ids[::-1]
    assert listed["next"] is None


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_one_to_a_thousand_submissions(shared: httpx.Client, count: int) -> None:
    before = log_position(shared)
    jobs = [{"user_id": "ada", "kind": "echo", "payload": n} for n in range(count)]
    refused = problem(shared.post("/v1/jobs/batch", json={"jobs": jobs}), 400)
    assert "1 to 1000" in refused["detail"]
    assert log_position(shared) == before


def test_a_batch_body_is_at_most_16_mib(client: httpx.Client) -> None:
    jobs = [
        {"user_id": "ada", "kind": "echo", "payload": f"{n}" + "x" * (MIB - 100)} for n in range(16)
    ]
    assert [one["status"] for one in submit_all(client, jobs)] == [202] * 16
    jobs.append({"user_id": "ada", "kind": "echo", "payload": "y" * 2000})
    answer = client.post("/v1/jobs/batch", json={"jobs": jobs})
    problem(answer, 413)
    assert len(client.get("/v1/jobs").json()["jobs"]) == 16


# Outcomes


def test_each_outcome_of_a_batch_is_answered_in_its_place(client: httpx.Client) -> None:
    ids = [submit(client, payload=number)["id"] for number in range(5)]
    claim(client, 4)
    assert settle(
        client,
        [
            {"id": ids[0], "attempt": 1, "result": {"r": 1}},
            {"id": ids[1], "attempt": 1, "error": "e", "retry": False},
            {"id": ids[2], "attempt": 2},
            {"id": 9999, "attempt": 1},
            {"id": ids[3], "attempt": 1},
            {"id": ids[0], "attempt": 1, "result": {"r": 1}},
            {"id": ids[4], "attempt": 1},
        ],
    ) == [
        {"id": ids[0], "status": 200, "state": "done"},
        {"id": ids[1], "status": 200, "state": "failed"},
        {
            "id": ids[2],
            "status": 409,
            "detail": f"Job {ids[2]}: attempt 2 cannot end it; the job is running, and its latest "
            "attempt is 1.",
        },
        {"id": 9999, "status": 404, "detail": "There is no job 9999."},
        {"id": ids[3], "status": 200, "state": "done"},
        {"id": ids[0], "status": 200, "state": "done"},
        {
            "id": ids[4],
            "status": 409,
            "detail": f"Job {ids[4]}: attempt 1 cannot end it; the job is queued, and its latest "
            "attempt is 0.",
        },
    ]
    ended = [client.get(f"/v1/jobs/{job}").json() for job in ids]
    assert [job["state"] for job in ended] == ["done", "failed", "running", "done", "queued"]
    assert [job["result"] for job in ended] == [{"r": 1}, None, None, None, None]
    assert ended[1]["error"] == "e"
    assert len(audit(client, type="JobCompleted")) == 2


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"attempt": 1}, 400),
        ({"id": "2", "attempt": 1}, 400),
        ({"id": 0, "attempt": 1}, 400),
        ({"id": 2**63, "attempt": 1}, 400),
        ({"id": 2, "attempt": 1, "colour": "red"}, 400),
        ({"id": 2, "attempt": 1, "result": "x" * MIB}, 413),
        ({"id": 2, "attempt": 1, "error": "x" * MIB}, 413),
        (None, 400),
        (2, 400),
    ],
    ids=str,
)
def test_a_bad_outcome_costs_its_neighbours_nothing(
    shared: httpx.Client, bad: Any, status: int
) -> None:
    kind = f"beside {str(bad)[:100]}"
    ids = [submit(shared, payload=number, kind=kind)["id"] for number in range(3)]
    claim(shared, 3, kinds=[kind])
    outcomes = settle(
        shared, [{"id": ids[1], "attempt": 1}, bad, {"id": ids[2], "attempt": 1, "result": 1}]
    )
    assert [one["status"] for one in outcomes] == [200, status, 200]
    assert outcomes[1]["detail"].endswith(".")
    assert shared.get(f"/v1/jobs/{ids[0]}").json()["state"] == "running"


def test_a_batch_of_outcomes_has_at_most_a_thousand(shared: httpx.Client) -> None:
    jobs = [{"id": 2, "attempt": 1}] * 1001
    problem(shared.post("/v1/claims/complete", json={"worker": "w1", "jobs": jobs}), 400)


def test_no_outcomes_are_answered_by_none(shared: httpx.Client) -> None:
    assert settle(shared, []) == []


def test_results_of_a_mebibyte_go_through_together(client: httpx.Client) -> None:
    ids = [submit(client, payload=number)["id"] for number in range(15)]
    claim(client, 15)
    result = "r" * (MIB - 2)
    outcomes = settle(client, [{"id": job, "attempt": 1, "result": result} for job in ids])
    assert [one["status"] for one in outcomes] == [200] * 15
    assert client.get(f"/v1/jobs/{ids[7]}").json()["result"] == result
