"""Progress that handlers report: in the job, its history and the stream, and bounded in events."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from domain.jobs.life_cycle import PROGRESS_SECONDS
from tests.support.clock import NOON, ManualClock
from tests.support.server import AppServer, FairlogServer, audit, claim, problem, submit
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def client(database_url: str, clock: ManualClock) -> Iterator[httpx.Client]:
    with AppServer(database_url, Settings(), clock) as server:
        yield server.client


def report(client: httpx.Client, job_id: int, progress: Any) -> httpx.Response:
    jobs = [{"id": job_id, "attempt": 1, "progress": progress}]
    return client.post("/v1/claims/heartbeat", json={"worker": "w1", "jobs": jobs})


def progress_events(client: httpx.Client, job_id: int) -> list[dict[str, Any]]:
    return audit(client, job_id=job_id, type="ProgressReported")


def test_a_report_is_shown_with_the_job_and_in_its_history(
    client: httpx.Client, clock: ManualClock
) -> None:
    job_id = submit(client)["id"]
    assert client.get(f"/v1/jobs/{job_id}").json()["progress"] is None
    claim(client)
    assert report(client, job_id, {"fraction": 0.4, "message": "page 4 of 10"}).status_code == 200
    shown = client.get(f"/v1/jobs/{job_id}").json()["progress"]
    assert shown == {
        "fraction": 0.4,
        "message": "page 4 of 10",
        "reported_at": "2026-01-31T12:00:00Z",
    }
    [listed] = client.get("/v1/jobs").json()["jobs"]
    assert listed["progress"] == shown
    [event] = progress_events(client, job_id)
    assert (event["data"]["attempt"], event["data"]["fraction"]) == (1, 0.4)
    assert "page" not in str(event["data"])  # what users write can be erased
    page = client.get(f"/jobs/{job_id}").text
    assert "40 %" in page
    assert "page 4 of 10" in page
    clock.advance(PROGRESS_SECONDS)
    report(client, job_id, {"fraction": 1})
    body = {"attempt": 1, "result": "done"}
    done = client.post(f"/v1/jobs/{job_id}/complete", json=body).json()
    assert (done["progress"]["fraction"], done["progress"]["message"]) == (1.0, "")
    before = client.get(f"/v1/jobs/{job_id}", params={"as_of": event["position"]}).json()
    assert before["progress"] == shown


def test_reports_within_two_seconds_are_one_event(client: httpx.Client, clock: ManualClock) -> None:
    job_id = submit(client)["id"]
    claim(client)
    for number in range(20):
        report(client, job_id, {"fraction": number / 100, "message": f"{number}"})
        clock.advance(PROGRESS_SECONDS / 10)
    fractions = [event["data"]["fraction"] for event in progress_events(client, job_id)]
    assert fractions == [0.0, 0.1]


def test_a_report_about_a_lost_attempt_changes_nothing(client: httpx.Client) -> None:
    job_id = submit(client)["id"]
    claim(client)
    client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    assert report(client, job_id, {"fraction": 0.5}).json()["lost"] == [job_id]
    assert progress_events(client, job_id) == []


@pytest.mark.one_database
@pytest.mark.parametrize(
    "progress",
    [
        {"fraction": 1.5},
        {"fraction": "half"},
        {"message": "x"},
        {"fraction": 0.5, "message": "x" * 501},
        {"fraction": 0.5, "percent": 50},
    ],
)
def test_a_report_that_is_none_is_refused(client: httpx.Client, progress: Any) -> None:
    problem(report(client, 1, progress), 400)


@pytest.mark.one_database
def test_a_handler_reports_from_any_thread_in_servers_and_workers(
    database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "reporting.py").write_text(
        textwrap.dedent(
            """
            import asyncio, threading, time

            def slow(payload, job):
                job.progress(0.25, "a quarter")
                while not job.cancelled:
                    time.sleep(0.02)

            async def slow_async(payload, job):
                job.progress(0.5, "half")
                await asyncio.sleep(600)
            """
        )
    )
    handlers = str(tmp_path / "reporting.py")
    with FairlogServer(database_url, workers=1, options=["--handlers", handlers]) as server:
        embedded = submit(server.client, kind="slow")["id"]
        wait_until(lambda: _said(server.client, embedded) == "a quarter", "progress is shown")
        with WorkerProcess(server.url, "--handlers", handlers):
            remote = submit(server.client, kind="slow_async")["id"]
            wait_until(lambda: _said(server.client, remote) == "half", "progress is shown")
            for job_id in (embedded, remote):
                server.client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()


def _said(client: httpx.Client, job_id: int) -> str | None:
    progress = client.get(f"/v1/jobs/{job_id}").json()["progress"]
    return None if progress is None else str(progress["message"])
