"""`fairlog drain` beside a server whose jobs run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.commands.test_cli import asked
from tests.support.server import FairlogServer, claim, submit
from tests.support.waiting import wait_until


@pytest.fixture
def client(database_url: str) -> Iterator[httpx.Client]:
    with FairlogServer(database_url, workers=0) as server:
        yield server.client


def complete(client: httpx.Client, job: dict[str, Any]) -> None:
    body = {"attempt": job["attempt"]}
    client.post(f"/v1/jobs/{job['id']}/complete", json=body).raise_for_status()


def pauses(client: httpx.Client) -> list[bool]:
    events = client.get("/v1/audit", params={"type": "LimitChanged"}).json()["events"]
    return [event["data"].get("paused", False) for event in events]


def test_a_drain_waits_for_what_runs_and_nothing_starts_until_the_resume(
    database_url: str, client: httpx.Client
) -> None:
    submit(client)
    [running] = claim(client)
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(asked, "drain", "--timeout", "2m", url=database_url)
        wait_until(lambda: pauses(client) == [True], "all starts are paused")
        later = submit(client, payload="later")
        assert claim(client) == []
        assert not drained.done()
        complete(client, running)
        result = drained.result(timeout=60)
    assert result.exception is None, result.exception
    assert result.stdout == "No job runs.\n"
    assert claim(client) == []
    assert asked("resume", "--all", url=database_url).exception is None
    assert [job["id"] for job in claim(client)] == [later["id"]]
    assert pauses(client) == [True, False]


def test_a_drain_that_runs_out_of_time_lists_what_still_runs(
    database_url: str, client: httpx.Client
) -> None:
    job = submit(client, kind="slow")
    claim(client)
    result = asked("drain", "--timeout", "0s", url=database_url)
    assert result.return_value == 1
    _, row = result.stdout.splitlines()
    assert row.split()[:4] == [str(job["id"]), "ada", "slow", "1"]
    assert "1 attempt still runs" in result.stderr
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running"
