"""A worker in a process of its own, over HTTP: how it starts, stops and outlives its server."""

import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.impostor import Impostor
from tests.support.server import AppServer, FairlogServer, talking
from tests.support.waiting import wait_until

PROGRAM = """
import sys
from fairlog_client.logs.configuration import configure_logging
from fairlog_client.worker.handler_pool import handler_pool
from fairlog_client.worker.handler_protocol import HandlerHello
from fairlog_client.worker.job_source import SourceError
from fairlog_client.worker.remote import run_remote_worker

configure_logging(as_json=False, runs_handlers=False)
url, module, grace_seconds = sys.argv[1:]
hello = HandlerHello(handlers=module, has_builtin=True, logs_json=False)
try:
    with handler_pool(hello, 2) as executor:
        run_remote_worker(url, executor, 2, grace_seconds=float(grace_seconds))
except SourceError as error:
    sys.exit(str(error))
"""
HANDLERS = """
import asyncio
import time

def hang(payload):
    time.sleep(3600)

async def wait(payload):
    await asyncio.sleep(payload)
    return "waited"
"""


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    path = tmp_path / "slow_jobs.py"
    path.write_text(HANDLERS)
    return path


def worker(
    url: str, handlers: Path, grace_seconds: float = 5.0
) -> AbstractContextManager["subprocess.Popen[str]"]:
    return talking(sys.executable, "-c", PROGRAM, url, str(handlers), str(grace_seconds))


def seconds_to_stop(process: Any) -> float:
    told = time.monotonic()
    output_to_the_end(process)
    return time.monotonic() - told


def output_to_the_end(process: Any) -> str:
    process.send_signal(signal.SIGTERM)
    output: str = process.communicate(timeout=20)[0]
    assert process.returncode == 0, output
    return output


def test_a_worker_that_stops_says_what_it_waits_for_and_what_is_left(
    database_url: str, handlers: Path
) -> None:
    with AppServer(database_url) as server, worker(server.url, handlers, 1.0) as process:
        for job in (submit(server.client, "hang"), submit(server.client, "wait", 0.6)):
            wait_for_state(server.client, job, "running")
        lines = output_to_the_end(process).splitlines()
    assert any("worker waits" in line and "running=2" in line for line in lines), lines
    [left] = [line for line in lines if "job not ended" in line]
    assert "kind=hang" in left


def submit(client: httpx.Client, kind: str, payload: object = None) -> str:
    wish = {"user_id": "ada", "kind": kind, "payload": payload}
    return client.post("/v1/jobs", json=wish).raise_for_status().headers["Location"]


def wait_for_state(client: httpx.Client, job: str, state: str) -> None:
    wait_until(lambda: client.get(job).json()["state"] == state, f"{job} is {state}")


def test_a_stop_takes_the_grace_time_at_most_although_a_handler_hangs(
    database_url: str, handlers: Path
) -> None:
    with AppServer(database_url) as server, worker(server.url, handlers, 1.0) as process:
        hanging, waiting = submit(server.client, "hang"), submit(server.client, "wait", 0.6)
        for job in (hanging, waiting):
            wait_for_state(server.client, job, "running")
        assert 1.0 < seconds_to_stop(process) < 10.0
        assert server.client.get(waiting).json()["state"] == "done"
        given_back = server.client.get(hanging).json()
        assert given_back["state"] == "queued"
        assert (given_back["failures"], given_back["max_attempts"]) == (0, 3)


def test_an_idle_worker_stops_at_once(database_url: str, handlers: Path) -> None:
    with AppServer(database_url) as server, worker(server.url, handlers, 20.0) as process:
        wait_for_state(server.client, submit(server.client, "wait", 0), "done")
        assert seconds_to_stop(process) < 10.0


def test_a_worker_waits_for_its_server_and_outlives_it(database_url: str, handlers: Path) -> None:
    server = FairlogServer(database_url)
    try:
        with worker(server.url, handlers) as process:
            server.start()
            wait_for_state(server.client, submit(server.client, "wait", 0), "done")
            job = submit(server.client, "wait", 1)
            wait_for_state(server.client, job, "running")
            server.kill()
            server.start()
            wait_for_state(server.client, job, "done")
            assert server.client.get(job).json()["attempt"] == 1
            seconds_to_stop(process)
    finally:
        server.close()


def test_a_worker_outlives_other_answers_than_its_servers_and_says_what_it_saw(
    database_url: str, handlers: Path
) -> None:
    statuses = [404, 403, 200, 500]
    with AppServer(database_url) as server, Impostor(server.url, statuses) as impostor:
        job = submit(server.client, "wait", 0)
        with worker(impostor.url, handlers) as process:
            wait_for_state(server.client, job, "done")
            assert server.client.get(job).json()["attempt"] == 1
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "404 Not Found, not as a Fairlog server does: <html>nobody home</html>" in output
    assert "Traceback" not in output
