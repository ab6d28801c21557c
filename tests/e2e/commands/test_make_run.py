"""`make run`, as a newcomer types it."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.server import STOP_SECONDS_MAX, ending_with_us, submit, without_settings
from tests.support.waiting import wait_until

# The environment that runs this test is up to date; another make must not install into it.
MAKE = ["make", "--no-print-directory", "--assume-old=.venv/.runnable"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Run it with a database file of the test's own."""
    outer = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "ARGS"}
    return {
        name: value for name, value in without_settings(os.environ).items() if name not in outer
    } | {"FAIRLOG_DATABASE_URL": f"sqlite:///{tmp_path / 'fairlog.db'}"}


@pytest.fixture
def running(
    environment: dict[str, str], tmp_path: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", httpx.Client]]:
    """`make run` on another port than 8000, which somebody may have taken."""
    port = free_port()
    with (tmp_path / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [*ending_with_us(), *MAKE, "run", f"ARGS=--port {port}"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_until(lambda: is_ready(client, process), "make run serves", 60)
            yield process, client
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_ready(client: httpx.Client, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


def test_make_run_serves_with_a_worker_inside_and_ends_at_ctrl_c(
    running: tuple["subprocess.Popen[bytes]", httpx.Client], tmp_path: Path
) -> None:
    process, client = running
    job = submit(client, payload={"hello": "world"})["id"]
    wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "done", "the job is done")
    assert client.get(f"/v1/jobs/{job}").json()["result"] == {"hello": "world"}
    assert (tmp_path / "fairlog.db").exists()

    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.wait(STOP_SECONDS_MAX)
    assert "Traceback" not in (tmp_path / "output.log").read_text()
    with pytest.raises(httpx.ConnectError):
        client.get("/livez")


def test_make_run_is_serve_on_loopback_at_port_8000(environment: dict[str, str]) -> None:
    command = subprocess.run(
        [*MAKE, "--dry-run", "run"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert command.stdout.split()[-2:] == [".venv/bin/fairlog", "serve"]
    explained = subprocess.run(
        [*MAKE, "run", "ARGS=--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"--host.*127\.0\.0\.1", explained.stdout, re.DOTALL)
    assert re.search(r"--port.*8000", explained.stdout, re.DOTALL)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])  # noqa: S104
def test_another_host_than_loopback_is_refused_without_insecure(
    environment: dict[str, str], tmp_path: Path, host: str
) -> None:
    refused = subprocess.run(
        [*MAKE, "run", f"ARGS=--host {host} --port {free_port()}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    said = refused.stderr.splitlines()[0]
    assert said.startswith("fairlog: ")
    assert "--insecure" in said
    assert not (tmp_path / "fairlog.db").exists()


def test_with_insecure_it_listens_on_any_host(environment: dict[str, str]) -> None:
    port = free_port()
    process = subprocess.Popen(
        [
            *ending_with_us(),
            str(ROOT / ".venv/bin/fairlog"),
            "serve",
            "--host",
            "0.0.0.0",  # noqa: S104
            "--port",
            str(port),
            "--insecure",
        ],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_until(lambda: is_ready(client, process), "it serves", 60)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS_MAX)
