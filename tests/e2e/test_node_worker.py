"""docs/examples/worker.mjs: a worker in another language, against the HTTP API alone."""

import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import FairlogServer, audit, submit, talking, wait_until

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "worker.mjs"
LINES_MAX = 60


def node_worker(
    server: FairlogServer, concurrency: int
) -> AbstractContextManager["subprocess.Popen[str]"]:
    return talking("node", str(EXAMPLE), server.url, str(concurrency))


def stop(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output
    return output


def wait_for(client: httpx.Client, job: int, state: str) -> dict[str, Any]:
    def reached() -> bool:
        return bool(client.get(f"/v1/jobs/{job}").json()["state"] == state)

    wait_until(reached, f"job {job} is {state}")
    found: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
    return found


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < LINES_MAX


def test_it_completes_and_fails_jobs_and_outlives_its_server(database_url: str) -> None:
    with FairlogServer(database_url) as server, node_worker(server, 4) as process:
        client = server.client
        good = submit(client, kind="upper", payload="fair")["id"]
        bad = submit(client, kind="upper", payload=42, max_attempts=1)["id"]
        assert wait_for(client, good, "done")["result"] == "FAIR"
        error = wait_for(client, bad, "failed")["error"]
        assert error["type"] == "TypeError"
        assert "worker.mjs" in error["traceback"]
        slow = submit(client, kind="pause", payload=1)["id"]
        wait_for(client, slow, "running")
        server.kill()
        server.start()
        assert wait_for(client, slow, "done")["attempt"] == 1
        stop(process)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_it_keeps_its_leases_learns_of_a_cancel_and_gives_back_at_sigterm(
    database_url: str,
) -> None:
    with (
        FairlogServer(database_url, settings={"lease_seconds": 1}) as server,
        node_worker(server, 2) as process,
    ):
        client = server.client
        long = submit(client, "ada", kind="pause", payload=2.5)["id"]
        cancelled = submit(client, "ada", kind="pause", payload=60)["id"]
        wait_for(client, cancelled, "running")
        client.post(f"/v1/jobs/{cancelled}/cancel").raise_for_status()
        freed = submit(client, "bob", kind="upper", payload="x")["id"]
        wait_for(client, freed, "done")  # by the slot that the cancelled job held
        done = wait_for(client, long, "done")
        assert (done["result"], done["attempt"]) == ("rested", 1)
        left = submit(client, kind="pause", payload=61)["id"]
        wait_for(client, left, "running")
        stop(process)
        [requeued] = audit(client, type="JobRequeued")
        assert (requeued["job_id"], requeued["data"]["reason"]) == (left, "given_back")
