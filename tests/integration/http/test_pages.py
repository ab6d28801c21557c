"""Lists hold what was asked for, and no more of it than a client that does not read may cost."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from entrypoints.runtime.page_bytes import PAGE_BYTES_MAX
from tests.conftest import NewDatabase
from tests.support.server import AppServer, claim, problem, submit

MIB = 1024 * 1024
LARGE = "x" * (MIB - 2)
ROOM = 64 * 1024  # for all that is no body
FAILURE = {"type": "ValueError", "message": "m" * 3000, "traceback": "t" * 500_000}


@pytest.fixture(scope="module")
def client(new_database_url: NewDatabase) -> Iterator[httpx.Client]:
    """Ten jobs of 1 MiB: four done with as much, two failed, the others running."""
    unlimited = Settings(user_limit=1_000_000, global_limit=1_000_000)
    with AppServer(new_database_url(), unlimited) as server:
        client = server.client
        for number in range(10):
            submit(client, payload=LARGE, idempotency_key=str(number), max_attempts=1)
        jobs = claim(client, 10)
        for job in jobs[:4]:
            end = {"attempt": 1, "result": LARGE}
            assert client.post(f"/v1/jobs/{job['id']}/complete", json=end).status_code == 200
        for job in jobs[4:6]:
            end = {"attempt": 1, "error": FAILURE}
            assert client.post(f"/v1/jobs/{job['id']}/fail", json=end).status_code == 200
        yield client


def all_pages(client: httpx.Client, **query: Any) -> list[list[dict[str, Any]]]:
    """Each page is bounded in bytes."""
    pages = []
    cursor: dict[str, Any] = {}
    while True:
        answer = client.get("/v1/jobs", params={**query, **cursor})
        assert answer.status_code == 200, answer.text
        assert len(answer.content) <= PAGE_BYTES_MAX + ROOM
        page = answer.json()
        pages.append(page["jobs"])
        if page["next"] is None:
            return pages
        cursor = {"cursor": page["next"]}


def test_lists_leave_payload_and_result_out(client: httpx.Client) -> None:
    [jobs] = all_pages(client, limit=1000)
    assert len(jobs) == 10
    assert all("payload" not in job and "result" not in job for job in jobs)


def test_lists_tell_errors_in_short(client: httpx.Client) -> None:
    [jobs] = all_pages(client, state="failed")
    for job in jobs:
        assert job["error"]["type"] == "ValueError"
        assert job["error"]["message"].startswith("mmm")
        assert len(job["error"]["message"]) == 500
        assert "traceback" not in job["error"]
    [whole] = all_pages(client, state="failed", include="error")
    assert [job["error"] for job in whole] == [FAILURE, FAILURE]


@pytest.mark.parametrize(
    ("include", "fields"),
    [("payload", {"payload"}), ("result", {"result"}), ("payload,result", {"payload", "result"})],
)
def test_what_is_asked_for_is_told_in_pages_that_are_bounded_in_bytes(
    client: httpx.Client, include: str, fields: set[str]
) -> None:
    pages = all_pages(client, include=include, limit=1000)
    jobs = [job for page in pages for job in page]
    ids = [job["id"] for job in jobs]
    assert ids == sorted(set(ids), reverse=True)
    assert len(ids) == 10
    assert all(fields == {"payload", "result"} & job.keys() for job in jobs)
    if "payload" in fields:
        assert len(pages) > 2
        assert all(job["payload"] == LARGE for job in jobs)
    if "result" in fields:
        assert [job["result"] for job in jobs if job["state"] == "done"] == [LARGE] * 4


@pytest.mark.parametrize("include", ["payloads", "payload,", "", "payload,results", "attempt"])
def test_what_cannot_be_included_is_refused(client: httpx.Client, include: str) -> None:
    problem(client.get("/v1/jobs", params={"include": include}), 400)


def test_a_single_job_is_told_whole(client: httpx.Client) -> None:
    [jobs] = all_pages(client, state="done")
    job = client.get(f"/v1/jobs/{jobs[0]['id']}").json()
    assert (job["payload"], job["result"]) == (LARGE, LARGE)


def test_the_originals_dashboard_is_bounded(client: httpx.Client) -> None:
    answer = client.get("/jobs/dashboard")
    assert len(answer.content) <= 3 * PAGE_BYTES_MAX + ROOM
    board = answer.json()
    assert board["stats"]["running_count"] == 4
    for name in ("running_jobs", "failed_jobs", "recent_jobs"):
        assert board[name]
        assert all(job["payload"] == LARGE for job in board[name])


def test_a_batch_that_repeats_jobs_with_large_results_is_bounded(client: httpx.Client) -> None:
    for job in claim(client, 100):
        client.post(f"/v1/jobs/{job['id']}/complete", json={"attempt": 1, "result": LARGE})
    for number in range(20):
        submit(client, payload=1, idempotency_key=f"small-{number}", kind="small")
    for job in claim(client, 100, kinds=["small"]):
        client.post(f"/v1/jobs/{job['id']}/complete", json={"attempt": 1, "result": LARGE})
    again = [
        {"user_id": "ada", "payload": 1, "idempotency_key": f"small-{n}", "kind": "small"}
        for n in range(20)
    ]
    answer = client.post("/v1/jobs/batch", json={"jobs": again * 2})
    assert len(answer.content) <= 2 * PAGE_BYTES_MAX + ROOM
    outcomes = answer.json()["jobs"]
    assert [one["status"] for one in outcomes] == [200] * 40
    assert all(one["job"]["is_duplicate"] for one in outcomes)
    assert outcomes[0]["job"]["result"] == LARGE
    assert "result" not in outcomes[-1]["job"]


def test_the_page_of_a_job_with_many_large_errors_shows_the_latest(client: httpx.Client) -> None:
    job = submit(client, payload="errors", kind="failing", max_attempts=1)["id"]
    for attempt in range(1, 9):
        claim(client, kinds=["failing"])
        error = {"message": f"failure {attempt}", "traceback": LARGE[:-100]}
        client.post(f"/v1/jobs/{job}/fail", json={"attempt": attempt, "error": error})
        client.post(f"/v1/jobs/{job}/retry")
    page = client.get(f"/jobs/{job}").text
    assert "failure 8" in page
    assert "failure 1" not in page


def test_pages_of_events_are_bounded_in_bytes(client: httpx.Client) -> None:
    """Extend a thousand leases in one event."""
    events, after = [], 0
    while True:
        answer = client.get("/v1/audit", params={"limit": 1000, "after": after})
        assert len(answer.content) <= PAGE_BYTES_MAX + 1000 * 1000
        events += answer.json()["events"]
        if answer.json()["next"] is None:
            break
        after = answer.json()["next"]
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
