"""docs/examples/worker.mjs: a worker in another language, against the HTTP API alone."""

import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.impostor import Impostor
from tests.support.repository import ROOT
from tests.support.server import FairlogServer, audit, submit, talking
from tests.support.waiting import wait_until

pytestmark = pytest.mark.one_database  # what handlers do is the same on each

EXAMPLE = ROOT / "docs" / "examples" / "worker.mjs"
LINES_MAX = 120


def node_worker(
    server: FairlogServer | Impostor, concurrency: int, program: Path = EXAMPLE
) -> AbstractContextManager["subprocess.Popen[str]"]:
    return talking("node", str(program), server.url, str(concurrency))


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
        FairlogServer(database_url, settings={"lease_seconds": 2}) as server,
        node_worker(server, 2) as process,
    ):
        client = server.client
        long = submit(client, "ada", kind="pause", payload=5)["id"]
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


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_it_outlives_other_answers_than_its_servers_and_keeps_its_outcomes(
    database_url: str,
) -> None:
    with (
        FairlogServer(database_url) as server,
        Impostor(server.url, [404, 403, 200, 500]) as impostor,
        node_worker(impostor, 2) as process,
    ):
        job = submit(server.client, kind="upper", payload="fair")["id"]
        done = wait_for(server.client, job, "done")
        assert (done["result"], done["attempt"]) == ("FAIR", 1)
        assert "answers 404: <html>nobody home</html>" in stop(process)


RESULTS = {
    "not_a_number": ("({ loss: NaN })", "result.loss is not JSON"),
    "a_map": ("[new Map()]", "result.0 is not JSON"),
    "deep": ("JSON.parse('['.repeat(40) + ']'.repeat(40))", "nested more than 32 deep"),
    "large": ("'x'.repeat(2 ** 21)", "at most 1048576 are accepted"),
    "nothing_thrown": ("(() => { throw null; })()", "null"),
    "told_never": ("({ get toJSON() { throw new Error('never'); } })", "never"),
    "hidden": ("Object.defineProperty({}, 'toJSON', { value: () => fail() })", "fail is not"),
    "half": ("'\\ud800'", "ends with half"),
    "unreadable_thrown": ("(() => { throw { get message() { throw 1; } }; })()", "?"),
    "strange_thrown": ("(() => { throw { name: 1n, message: '\\ud800x' }; })()", "x"),
    "large_thrown": ("(() => { throw new Error('x'.repeat(5e7)); })()", "xxx"),
    "twice": ("(Promise.reject(Error('beside')), sleep(300).then(() => fail()))", "fail is not"),
}


FAIL_FOR_GOOD = {"not_a_number", "a_map", "deep", "large", "half"}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_result_that_cannot_be_sent_fails_its_job_and_the_worker_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "worker.mjs"
    known = "const handlers = {"
    more = "".join(f"{kind}: async () => {code}, " for kind, (code, _) in RESULTS.items())
    assert EXAMPLE.read_text().count(known) == 1
    program.write_text(EXAMPLE.read_text().replace(known, known + more))
    with FairlogServer(database_url) as server, node_worker(server, 2, program) as process:
        for kind, (_, words) in RESULTS.items():
            attempts = 1 if kind not in FAIL_FOR_GOOD else 3
            job = submit(server.client, kind=kind, max_attempts=attempts)["id"]
            failed = wait_for(server.client, job, "failed")
            assert words in failed["error"]["message"]
            assert failed["attempt"] == 1
        good = submit(server.client, kind="upper", payload="on")["id"]
        assert wait_for(server.client, good, "done")["result"] == "ON"
        stop(process)
