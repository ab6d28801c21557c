"""Handlers that fork: their children keep nothing of a server or a worker that has ended."""

import os
import signal
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.support.databases import DatabaseServer
from tests.support.server import FairlogServer, submit
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.one_database  # what handlers do is the same on each

HANDLERS = """
import multiprocessing
import os
import sys
import threading
import time

_forking = multiprocessing.get_context("fork")


def child(_):
    process = _forking.Process(target=time.sleep, args=(600,))
    process.start()
    return process.pid


async def child_of_the_loop(_):
    if pid := os.fork():
        return pid
    time.sleep(600)


def ended_child(_):
    process = _forking.Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join(30)
    return process.exitcode


def two_ends(how):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if how == "exit":
        sys.exit(3)
    return how


async def two_ends_of_the_loop(how):
    return two_ends(how)


def thread(_):
    threading.Thread(target=time.sleep, args=(600,)).start()
"""
KEPT = ["child", "child_of_the_loop"]


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    path = tmp_path / "forking.py"
    path.write_text(HANDLERS)
    return path


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Process ids, killed at the end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def done(server: FairlogServer, kind: str, payload: object = None) -> Any:
    """Run a job to its end; its result."""
    job = submit(server.client, kind=kind, payload=payload, max_attempts=1)

    def has_ended() -> bool:
        return bool(state()["state"] in {"done", "failed"})

    def state() -> dict[str, Any]:
        found: dict[str, Any] = server.client.get(f"/v1/jobs/{job['id']}").json()
        return found

    wait_until(has_ended, f"{kind} ends")
    assert state()["state"] == "done", state()
    return state()["result"]


@pytest.mark.parametrize("kind", KEPT)
def test_a_server_that_was_killed_starts_again_beside_a_child_that_lives_on(
    database_url: str,
    handlers: Path,
    children: list[int],
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    with FairlogServer(database_url, workers=1, settings={"handlers": handlers}) as server:
        with socket.create_connection(("127.0.0.1", server.port), 30) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = HTTPResponse(client)
            answer.begin()
            assert answer.read() == b"ok"
            children.append(done(server, kind))
            server.kill()
            assert client.recv(4096) == b""  # a client sees that nobody is there any more
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 30)
        if "mariadb" in database_url or "mysql" in database_url:
            database: DatabaseServer = request.getfixturevalue("mariadb")
            wait_until(lambda: not connections(database, database_url), "no connection is left")
        os.kill(children[0], 0)  # it lives on
        server.start()
        assert done(server, "echo", "again") == "again"


def connections(database: DatabaseServer, url: str) -> int:
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = %s",
            (make_url(url).database,),
        )
        [[count]] = cursor.fetchall()
        return int(count)


@pytest.mark.parametrize("kind", [*KEPT, "thread"])
def test_a_server_that_is_told_to_end_does_not_wait_for_what_a_handler_left_behind(
    database_url: str, handlers: Path, children: list[int], kind: str
) -> None:
    with FairlogServer(database_url, workers=1, settings={"handlers": handlers}) as server:
        if pid := done(server, kind):
            children.append(pid)
        server.terminate()
        server.start()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestHandlersThatFork:
    """The same in a server and in a worker of its own."""

    @pytest.fixture(params=["server", "worker"])
    def server(
        self, request: pytest.FixtureRequest, database_url: str, handlers: Path
    ) -> Iterator[FairlogServer]:
        is_embedded = request.param == "server"
        settings = {"handlers": handlers, "lease_seconds": 600}
        with FairlogServer(database_url, workers=int(is_embedded), settings=settings) as server:
            if is_embedded:
                yield server
                return
            with WorkerProcess(server.url, "--handlers", str(handlers)) as worker:
                yield server
                assert worker.is_alive

    def test_a_signal_to_the_child_is_not_the_parents(self, server: FairlogServer) -> None:
        assert done(server, "ended_child") == -signal.SIGTERM
        assert done(server, "echo", 1) == 1

    @pytest.mark.parametrize("kind", ["two_ends", "two_ends_of_the_loop"])
    @pytest.mark.parametrize(("how", "code"), [("exit", 3), ("return", 0)])
    def test_a_child_that_comes_back_out_of_its_handler_ends(
        self, server: FairlogServer, kind: str, how: str, code: int
    ) -> None:
        assert done(server, kind, how) == code
        assert done(server, "echo", 1) == 1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_worker_that_was_killed_is_given_no_more_jobs_beside_a_child_that_lives_on(
    database_url: str, handlers: Path, children: list[int]
) -> None:
    settings = {"handlers": handlers, "lease_seconds": 600}
    with FairlogServer(database_url, settings=settings) as server:
        with WorkerProcess(server.url, "--handlers", str(handlers)) as worker:
            children.append(done(server, "child"))
            assert done(server, "echo", "first") == "first"
            worker.kill()
        with WorkerProcess(server.url):
            for number in range(5):
                assert done(server, "echo", number) == number


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", [*KEPT, "thread"])
def test_a_worker_that_is_told_to_end_does_not_wait_for_what_a_handler_left_behind(
    database_url: str, handlers: Path, children: list[int], kind: str
) -> None:
    with (
        FairlogServer(database_url) as server,
        WorkerProcess(server.url, "--handlers", str(handlers)) as worker,
    ):
        if pid := done(server, kind):
            children.append(pid)
        worker.terminate()
