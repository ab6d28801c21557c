"""The log lines about jobs, for the person on call."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from adapters.settings import Settings
from entrypoints.service import job_log
from tests.support.clock import ManualClock
from tests.support.server import claim, submit
from tests.support.waiting import wait_until

Lines = list[MutableMapping[str, Any]]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(user_limit=3, lease_seconds=10)


@pytest.fixture
def lines(server: object) -> Iterator[Lines]:  # noqa: ARG001 (it is there first)
    with capture_logs() as captured:
        yield captured


def logged(lines: Lines, event: str) -> MutableMapping[str, Any]:
    wait_until(lambda: any(line["event"] == event for line in lines), f"{event} is logged")
    return next(line for line in lines if line["event"] == event)


def fail(client: httpx.Client, job: dict[str, Any], error: object) -> None:
    body = {"attempt": job["attempt"], "error": error}
    assert client.post(f"/v1/jobs/{job['id']}/fail", json=body).is_success


def test_a_failed_attempt_and_a_failed_job_are_logged_with_job_kind_user_and_error(
    client: httpx.Client, clock: ManualClock, lines: Lines
) -> None:
    submit(client, "ada", kind="export", max_attempts=2)
    [job] = claim(client)
    fail(client, job, {"type": "ValueError", "message": "no such table\x1b[2J"})

    line = logged(lines, "attempt_failed")
    about = {"job": job["id"], "kind": "export", "user": "ada", "log_level": "warning"}
    assert about.items() < line.items()
    assert line["attempt"] == 1
    assert line["error"] == "ValueError: no such table\\u001b[2J"
    assert line["retry_at"] > "2026-01-31T12:00:00"

    clock.advance(60)
    wait_until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued", "it waits")
    [job] = claim(client)
    fail(client, job, "again")
    line = logged(lines, "job_failed")
    assert (line["job"], line["attempt"], line["error"]) == (job["id"], 2, "again")
    assert line["log_level"] == "error"


def test_a_lost_lease_and_a_retry_are_logged(
    client: httpx.Client, clock: ManualClock, lines: Lines
) -> None:
    job = submit(client, "ada", max_attempts=2)["id"]
    for _ in range(2):
        wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "queued", "it waits")
        claim(client)
        clock.advance(10)
    assert logged(lines, "lease_lost").items() >= {"job": job, "user": "ada", "attempt": 1}.items()
    line = logged(lines, "job_failed")
    assert (line["reason"], line["attempt"]) == ("lease_lost", 2)

    assert client.post(f"/v1/jobs/{job}/retry").is_success
    assert logged(lines, "job_retried")["log_level"] == "info"


def test_refusals_are_logged_in_sum(
    client: httpx.Client, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "REFUSAL_SECONDS", 0.0)
    for number in range(8):
        client.post("/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": number})

    def refused() -> list[int]:
        return [line["count"] for line in lines if line["event"] == "submissions_refused"]

    wait_until(lambda: sum(refused()) == 5, "all refusals are logged")
    line = logged(lines, "submissions_refused")
    assert (line["users"], line["most_by"]) == (1, "ada")


def test_a_burst_of_failures_has_a_bounded_number_of_lines(
    client: httpx.Client, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "LINES_PER_WRITE_MAX", 1)
    for number in range(3):
        submit(client, "ada", payload=number)
    failures = [
        {"id": job["id"], "attempt": job["attempt"], "error": "no"} for job in claim(client, max=3)
    ]
    body = {"worker": "w", "jobs": failures}
    assert client.post("/v1/claims/complete", json=body).is_success

    assert logged(lines, "job_lines_left_out")["events"] == 2
    assert len([line for line in lines if line["event"] == "attempt_failed"]) == 1


def test_a_slow_batch_is_logged(
    client: httpx.Client, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "SLOW_BATCH_SECONDS", 0.0)
    submit(client, "ada")
    line = logged(lines, "slow_batch")
    assert (line["commands"], line["events"]) == (1, 2)
