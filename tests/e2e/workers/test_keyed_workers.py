"""Workers that send an API key, and servers that require one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from domain.access.secrets import id_of
from domain.language.events import Role
from domain.language.identifiers import Kind
from tests.e2e.commands.test_cli import Run, failed, run, succeeded
from tests.support.core import execute_now, service
from tests.support.keys import create_key, secret
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.server import FairlogServer, without_settings
from tests.support.waiting import wait_until

__all__ = ["run"]  # a fixture

FAIRLOG = Path(sys.executable).with_name("fairlog")
HANDLERS = """
import os

def reveal(payload):
    return os.environ.get("FAIRLOG_KEY")
"""


@pytest.fixture
def keyed(database_url: str) -> str:
    """A database with a key of each sort."""
    with service(database_url) as fairlog:
        execute_now(fairlog, create_key("alice", users=("alice",)))
        execute_now(fairlog, create_key("worker", Role.WORKER))
    return database_url


def result_of(server: FairlogServer, kind: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret('alice')}"}
    body = {"user_id": "alice", "kind": kind, "payload": "fair"}
    job = httpx.post(f"{server.url}/v1/jobs", json=body, headers=headers).json()
    address = f"{server.url}/v1/jobs/{job['id']}"
    wait_until(lambda: httpx.get(address, headers=headers).json()["state"] == "done", "it is done")
    return httpx.get(address, headers=headers)


def start(*arguments: str, key: str | None, folder: Path) -> "subprocess.Popen[str]":
    environment = without_settings(os.environ) | ({} if key is None else {"FAIRLOG_KEY": key})
    return subprocess.Popen(
        arguments,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stop(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=30)[0]


def test_a_worker_sends_its_key_and_keeps_it_from_handlers(keyed: str, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with FairlogServer(keyed) as server:
        process = start(
            *(str(FAIRLOG), "worker", "--server", server.url, "--handlers", "handlers.py"),
            key=secret("worker"),
            folder=tmp_path,
        )
        try:
            done = result_of(server, "reveal").json()
        finally:
            said = stop(process)
        assert done["result"] is None
        assert secret("worker") not in said + server.output


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_worker_leaves_out_the_kinds_that_its_key_is_not_for(
    database_url: str, tmp_path: Path
) -> None:
    with service(database_url) as fairlog:
        execute_now(fairlog, create_key("alice", users=("alice",)))
        execute_now(fairlog, create_key("reveals", Role.WORKER, kinds=(Kind("reveal"),)))
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with FairlogServer(database_url) as server:
        process = start(
            *(str(FAIRLOG), "worker", "--server", server.url, "--handlers", "handlers.py"),
            key=secret("reveals"),
            folder=tmp_path,
        )
        try:
            result_of(server, "reveal")
        finally:
            said = stop(process)
    assert process.returncode == 0
    lines = [line for line in said.splitlines() if '"kinds_left_out"' in line]
    assert len(lines) == 1, said
    assert '"kinds": ["echo", "fail", "sleep"]' in lines[0]
    assert '"level": "warning"' not in said  # the claim that was open at the stop is known, too


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_worker_without_a_handler_that_its_key_is_for_ends(
    database_url: str, tmp_path: Path
) -> None:
    with service(database_url) as fairlog:
        execute_now(fairlog, create_key("reveals", Role.WORKER, kinds=(Kind("reveal"),)))
    with FairlogServer(database_url) as server:
        process = start(
            *(str(FAIRLOG), "worker", "--server", server.url),
            key=secret("reveals"),
            folder=tmp_path,
        )
        said = process.communicate(timeout=30)[0]
    assert process.returncode == 2
    assert "is not for jobs of the kind" in said
    assert "Traceback" not in said


def test_a_worker_in_another_language_sends_its_key(keyed: str, tmp_path: Path) -> None:
    with FairlogServer(keyed) as server:
        example = str(ROOT / "docs" / "examples" / "worker.mjs")
        process = start("node", example, server.url, key=secret("worker"), folder=tmp_path)
        try:
            assert result_of(server, "upper").json()["result"] == "FAIR"
        finally:
            stop(process)


def test_a_key_as_an_argument_is_accepted_with_a_warning(keyed: str, tmp_path: Path) -> None:
    with FairlogServer(keyed) as server:
        process = start(
            *(str(FAIRLOG), "worker", "--server", server.url, "--key", secret("worker")),
            key=None,
            folder=tmp_path,
        )
        try:
            assert result_of(server, "echo").json()["result"] == "fair"
        finally:
            said = stop(process)
        assert "Warning: every user of this machine can read the key in --key" in said
        assert secret("worker") not in said


def test_a_mistyped_key_is_named_without_being_shown(run: Run) -> None:
    key = secret("worker")[:-1]
    done = run("worker", "--server", "http://127.0.0.1:1", FAIRLOG_KEY=key)
    said = failed(done, 2)
    assert "FAIRLOG_KEY is no API key" in said
    assert key not in done.stderr


def test_a_worker_without_a_key_is_told_so(keyed: str, tmp_path: Path) -> None:
    with FairlogServer(keyed) as server:
        process = start(
            *(str(FAIRLOG), "worker", "--server", server.url), key=None, folder=tmp_path
        )
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("This server requires an API key" in line for line in lines)
        stop(process)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_server_listens_beyond_loopback_once_there_is_a_key(
    run: Run, database_url: str, tmp_path: Path
) -> None:
    everywhere = "0.0.0.0"  # noqa: S104 (what is tested)
    refused = run("serve", "--host", everywhere, FAIRLOG_DATABASE_URL=database_url)
    assert "fairlog keys create" in failed(refused, 2)
    succeeded(run("migrate", FAIRLOG_DATABASE_URL=database_url))
    created = run(
        *("keys", "create", "--name", "root", "--role", "admin"), FAIRLOG_DATABASE_URL=database_url
    )
    assert id_of(created.stdout.strip()) is not None
    port = free_port()
    process = start(
        *(str(FAIRLOG), "serve", "--host", everywhere, "--port", str(port)),
        *("--workers", "0", "--database-url", database_url),
        key=None,
        folder=tmp_path,
    )
    try:

        def status() -> int:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/v1/stats").status_code
            except httpx.HTTPError:
                return 0

        wait_until(lambda: status() == 401, "the server requires a key")
    finally:
        stop(process)
