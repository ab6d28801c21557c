"""Health, statistics and the description of the API."""

import re

import httpx
import pytest
from sqlalchemy import text

from tests.support.server import AppServer, claim, problem, submit

CALLS = {
    "/v1/jobs": {"get", "post"},
    "/v1/jobs/batch": {"post"},
    "/v1/jobs/{job_id}": {"get"},
    "/v1/jobs/{job_id}/events": {"get"},
    "/v1/jobs/{job_id}/cancel": {"post"},
    "/v1/jobs/{job_id}/retry": {"post"},
    "/v1/jobs/{job_id}/complete": {"post"},
    "/v1/jobs/{job_id}/fail": {"post"},
    "/v1/claims": {"post"},
    "/v1/claims/heartbeat": {"post"},
    "/v1/claims/complete": {"post"},
    "/v1/audit": {"get"},
    "/v1/stats": {"get"},
    "/v1/limits": {"get", "put"},
    "/v1/limits/{user_id}": {"get", "put"},
    "/v1/kinds/{kind}": {"get", "put"},
    "/v1/stream": {"get"},
    "/livez": {"get"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/jobs/submit_job": {"post"},
    "/jobs/job_status/{job_id}": {"get"},
    "/jobs/dashboard": {"get"},
}
ELSEWHERE = re.compile(
    rb"""(?:src|href|srcset|action|url\(|import)\s*[=(]?\s*["']?\s*(?:https?:)?//"""
)


@pytest.mark.parametrize("address", ["/livez", "/healthz"])
def test_a_process_that_answers_is_alive(shared: httpx.Client, address: str) -> None:
    answer = shared.get(address)
    assert (answer.status_code, answer.text) == (200, "ok")


def test_a_server_is_ready_when_schema_log_and_recovery_are(client: httpx.Client) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_a_server_is_not_ready_on_a_schema_of_another_release(server: AppServer) -> None:
    with server.fairlog.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'another'"))
    answer = server.client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert "fairlog migrate" in answer.json()["reason"]


def test_a_server_is_not_ready_before_it_has_recovered(server: AppServer) -> None:
    server.fairlog.is_recovered = False
    answer = server.client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)


def test_statistics_count_jobs_and_show_the_line(client: httpx.Client) -> None:
    for user in ("ada", "bob"):
        for number in range(2):
            submit(client, user, payload=number, kind=f"kind {user}")
    [started] = claim(client)
    stats = client.get("/v1/stats").json()
    assert stats["position"] == 9
    assert stats["jobs"] == {
        "scheduled": 0,
        "queued": 3,
        "running": 1,
        "done": 0,
        "failed": 0,
        "cancelled": 0,
    }
    assert stats["total"] == 4
    assert stats["line"]["waiting"] == 3
    assert stats["line"]["kinds"] == [
        {"kind": "kind ada", "waiting": 1, "running": 1, "running_limit": None},
        {"kind": "kind bob", "waiting": 2, "running": 0, "running_limit": None},
    ]
    assert stats["line"]["next"] == [
        {"user_id": "bob", "turn": 6, "last_served": None, "waiting": 2, "running": 0},
        {"user_id": "ada", "turn": 9, "last_served": 9, "waiting": 1, "running": 1},
    ]
    limits = client.get("/v1/limits").json()
    assert limits | stats["global"] == limits
    assert started["user_id"] == "ada"
    assert stats["rates"]["commands"] >= 5
    assert stats["rates"]["queue"] == 0


def test_the_api_describes_itself(shared: httpx.Client) -> None:
    answer = shared.get("/schema")
    assert answer.status_code == 200
    assert "json" in answer.headers["Content-Type"]
    schema = answer.json()
    assert schema["openapi"].startswith("3.")
    assert schema["info"]["title"] == "Fairlog"
    described = {path: set(calls) for path, calls in schema["paths"].items()}
    assert {path: described.get(path) for path in CALLS} == CALLS


def test_the_errors_of_each_call_are_described_as_problems(shared: httpx.Client) -> None:
    for path, calls in shared.get("/schema").json()["paths"].items():
        for method, call in calls.items():
            errors = {
                int(status): answer
                for status, answer in call["responses"].items()
                if int(status) >= 400
            }
            assert {400, 421, 500, 503} <= errors.keys()
            assert (401 in errors) == bool(call["security"])
            assert (415 in errors) == (method in {"post", "put"} and "requestBody" in call)
            assert (404 in errors) == ("{" in path or path == "/checkpoint")  # without a key
            for answer in errors.values():
                [reference] = answer["content"]["application/problem+json"]["schema"].values()
                assert reference == "#/components/schemas/ProblemDetails"
                assert answer["description"]


def test_every_reference_in_the_description_leads_somewhere(shared: httpx.Client) -> None:
    answer = shared.get("/schema")
    named = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', answer.text))
    assert named
    assert named <= set(answer.json()["components"]["schemas"])


def test_the_description_has_the_header_that_is_read_beside_litestar(shared: httpx.Client) -> None:
    submission = shared.get("/schema").json()["paths"]["/v1/jobs"]["post"]
    [header] = [one for one in submission["parameters"] if one["in"] == "header"]
    assert (header["name"], header.get("required", False)) == ("Idempotency-Key", False)


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/schema",
        "/schema/openapi.json",
        "/schema/swagger",
        "/schema/redoc",
        "/livez",
        "/readyz",
        "/metrics",
        "/v1/jobs",
        "/v1/jobs/1",
        "/v1/audit",
        "/v1/stats",
        "/v1/limits",
        "/jobs/dashboard",
        "/nowhere",
        "/favicon.ico",
    ],
)
def test_no_answer_loads_anything_from_another_host(shared: httpx.Client, address: str) -> None:
    answer = shared.get(address)
    assert answer.status_code in {200, 404}
    assert ELSEWHERE.search(answer.content) is None


def test_what_is_not_there_is_a_problem(shared: httpx.Client) -> None:
    problem(shared.get("/nowhere"), 404)
    problem(shared.get("/v1/jobs/one"), 404)
    problem(shared.post("/v1/nowhere", json={}), 404)


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("DELETE", "/v1/jobs"),
        ("PUT", "/v1/jobs"),
        ("PATCH", "/v1/jobs/1"),
        ("POST", "/v1/jobs/1"),
        ("GET", "/v1/jobs/1/cancel"),
        ("GET", "/v1/claims"),
        ("POST", "/v1/limits"),
        ("DELETE", "/v1/limits/ada"),
        ("DELETE", "/v1/kinds/echo"),
        ("POST", "/v1/audit"),
        ("DELETE", "/v1/audit"),
        ("POST", "/livez"),
        ("GET", "/jobs/submit_job"),
    ],
)
def test_a_wrong_method_is_a_problem_that_names_the_right_ones(
    shared: httpx.Client, method: str, address: str
) -> None:
    answer = shared.request(method, address, json={})
    detail = problem(answer, 405)["detail"]
    allowed = answer.headers["Allow"]
    assert allowed
    assert method not in allowed.split(", ")
    assert allowed in detail
