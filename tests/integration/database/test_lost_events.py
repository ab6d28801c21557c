"""A replica that lacks answered events is promoted: nobody writes before the loss is accepted."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.replica import NAME, Pair, replicated
from tests.support.server import FairlogServer, without_settings
from tests.support.waiting import wait_until

FAIRLOG = Path(sys.executable).with_name("fairlog")
LOST_JOBS = 100  # of two events each
SETTINGS = {
    "deduplicate": False,
    "lease_seconds": 300,
    "user_limit": 10_000,
    "global_limit": 100_000,
}
JOB = {"user_id": "ada", "kind": "echo", "payload": 1}


@pytest.fixture
def pair() -> Iterator[Pair]:
    with replicated() as pair:
        yield pair


def submitted(client: httpx.Client, jobs: int = 1) -> list[int]:
    answer = client.post("/v1/jobs/batch", json={"jobs": [JOB] * jobs})
    assert answer.is_success, answer.text
    return [one["job"]["id"] for one in answer.json()["jobs"]]


def claim(client: httpx.Client, most: int) -> list[dict[str, int]]:
    answer = client.post("/v1/claims", json={"worker": "w", "max": most})
    return [{"id": job["id"], "attempt": job["attempt"]} for job in answer.json()["jobs"]]


def head(pair: Pair) -> int:
    with pair.replica.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT position FROM {NAME}.log_head")
        [[position]] = cursor.fetchall()
        return int(position)


def run(pair: Pair, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(FAIRLOG), *arguments],
        env=without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": pair.replica_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_loss_is_noticed_and_accepted_and_no_number_is_given_twice(pair: Pair) -> None:
    with FairlogServer(pair.url, settings=SETTINGS) as service:
        client = service.client
        kept = submitted(client, 3)
        [held] = claim(client, 1)  # a job that stays
        wait_until(
            lambda: head(pair) == client.get("/v1/audit").json()["events"][-1]["position"],
            "the replica has it all",
        )
        end = head(pair)
        pair.fall_behind()
        lost = submitted(client, LOST_JOBS)
        lost_claims = claim(client, 10)  # the next two that stay, and eight that are lost
        pair.primary.kill()
        pair.promote()
        promoted_at = time.monotonic()

        wait_until(
            lambda: client.get(f"/v1/jobs/{kept[0]}").status_code == 503, "a read is refused"
        )
        print(f"a reader noticed after {time.monotonic() - promoted_at:.2f} s")
        answer = client.post("/v1/jobs", json=JOB)
        assert answer.status_code == 503, answer.text
        wait_until(lambda: "does not have event" in client.get("/readyz").text, "it tells")
        assert f"accept-loss --at {end}" in client.get("/readyz").text
        assert client.get(f"/v1/jobs/{lost[0]}").status_code == 503
        assert head(pair) == end

        wait_until(lambda: "events up to" in run(pair, "doctor").stdout, "it is reported")
        refused = run(pair, "pause", "--user", "bob")  # knows nothing, but was told
        assert refused.returncode == 1
        assert "does not have event" in refused.stderr
        assert head(pair) == end

        shown = run(pair, "accept-loss").stdout
        assert f"{LOST_JOBS:>8,}  JobSubmitted" in shown
        assert f"Lost jobs by user: ada ({LOST_JOBS})" in shown
        assert run(pair, "accept-loss", "--at", str(end - 1)).returncode == 1
        accepted = run(pair, "accept-loss", "--at", str(end))
        assert accepted.returncode == 0, accepted.stderr

        wait_until(lambda: client.get("/readyz").is_success, "it goes on")
        known = head(pair)
        assert known > max(lost)
        [new] = submitted(client)
        assert new > known
        gone = client.get(f"/v1/jobs/{lost[0]}")
        assert (gone.status_code, "was lost" in gone.text) == (404, True)
        assert client.get(f"/v1/jobs/{kept[2]}").json()["state"] == "queued"

        done = [{**one, "result": 1} for one in [held, *lost_claims]]
        answer = client.post("/v1/claims/complete", json={"worker": "w", "jobs": done})
        states = [one.get("status", 200) for one in answer.json()["jobs"]]
        # What the log has, the two whose claims are lost, and the jobs that are lost themselves.
        assert states == [200, 409, 409, *[404] * 8]
        assert [one["id"] for one in claim(client, 10)] == [*kept[1:], new]

        found = client.get("/v1/audit", params={"type": "EventLost", "user_id": "ada"}).json()
        assert found["events"][0]["data"]["lost_type"] == "RateLimitDecided"
        [event] = client.get("/v1/audit", params={"type": "LossAccepted"}).json()["events"]
        assert event["data"]["at"] == end
    assert run(pair, "verify").returncode == 0
    assert "No server has reported" in run(pair, "accept-loss").stdout


def test_a_semi_synchronous_replica_has_all_that_was_answered() -> None:
    with (
        replicated(is_semi_sync=True) as pair,
        FairlogServer(pair.url, settings=SETTINGS) as service,
    ):
        answered: list[int] = []

        stopping = threading.Event()

        def submit() -> None:
            while not stopping.is_set():
                with suppress(httpx.TransportError, AssertionError):
                    answered.extend(submitted(service.client))

        submitted(service.client)
        thread = threading.Thread(target=submit)
        thread.start()
        wait_until(lambda: len(answered) > 50, "there are answers")
        pair.primary.kill()
        pair.promote()
        wait_until(lambda: service.client.get("/readyz").is_success, "it goes on")
        stopping.set()
        thread.join()
        [new] = submitted(service.client)
        assert new > answered[-1]
        for job in answered:
            assert service.client.get(f"/v1/jobs/{job}").is_success
        service.terminate()
        assert run(pair, "verify").returncode == 0
