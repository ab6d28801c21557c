"""Helpers of the dashboard's tests: a server with jobs, and functions that change it."""

from typing import Any

from playwright.sync_api import Page, expect

from tests.support.server import FairlogServer


def submit(server: FairlogServer, user: str, payload: Any, kind: str = "echo", **more: Any) -> int:
    body = {"user_id": user, "payload": payload, "kind": kind, **more}
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job_id: int = answer.json()["id"]
    return job_id


def claim(server: FairlogServer, most: int, worker: str = "tester", **more: Any) -> list[Any]:
    answer = server.client.post("/v1/claims", json={"worker": worker, "max": most, **more})
    assert answer.status_code == 200, answer.text
    jobs: list[Any] = answer.json()["jobs"]
    return jobs


def end(server: FairlogServer, job: Any, *, error: Any = None, retry: bool = False) -> None:
    path = f"/v1/jobs/{job['id']}/{'complete' if error is None else 'fail'}"
    body = {"result": {"ok": True}} if error is None else {"error": error, "retry": retry}
    answer = server.client.post(path, json={"attempt": job["attempt"], **body})
    assert answer.status_code == 200, answer.text


def state_of(server: FairlogServer, job_id: int) -> str:
    state: str = server.client.get(f"/v1/jobs/{job_id}").json()["state"]
    return state


def confirm(page: Page) -> None:
    expect(page.locator("#confirm")).to_be_visible()
    page.locator("#confirm-yes").click()
