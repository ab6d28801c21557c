"""The server and its writer are two processes: the writer ends with the server, whatever ends that,
and the server outlives its writer.
"""

import os
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count
from threading import Event

import httpx
import pytest
from sqlalchemy import make_url

from tests.support.clock import LONGEST_WINDOW
from tests.support.command_line import commands_on
from tests.support.server import FairlogServer, audit, submit
from tests.support.waiting import wait_until

END_SECONDS_MAX = 20.0


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_is_killed_takes_its_writer_along(database_url: str) -> None:
    with FairlogServer(database_url) as server:
        job = submit(server.client)
        writer = server.writer_pid
        server.kill()
        wait_until(lambda: not is_there(writer), "the writer ends", END_SECONDS_MAX)
        server.start()
        assert server.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_a_server_that_stops_lets_its_writer_end_first(database_url: str) -> None:
    with FairlogServer(database_url) as server:
        submit(server.client)
        writer = server.writer_pid
        server.terminate()
        assert not is_there(writer)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)  # the next one has SQLite
def test_a_server_ends_when_it_is_told_to_although_its_writer_was_stopped(
    database_url: str,
) -> None:
    with FairlogServer(database_url, workers=1) as server:
        job = submit(server.client, kind="sleep", payload={"seconds": 600})
        wait_until(
            lambda: server.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running",
            "it runs",
        )
        writer = server.writer_pid
        os.kill(writer, signal.SIGSTOP)
        try:
            wait_until(lambda: "writer_process" in server.client.get("/readyz").text, "it is known")
            server.terminate()
            assert not is_there(writer)
        finally:
            if is_there(writer):
                os.kill(writer, signal.SIGCONT)
        server.start()
        submit(server.client, "bob")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_server_ends_when_it_is_told_to_although_somebody_holds_the_lock(
    database_url: str,
) -> None:
    with FairlogServer(database_url, workers=1) as server:
        submit(server.client)
        writer = server.writer_pid
        with closing(sqlite3.connect(make_url(database_url).database or "")) as file:
            file.isolation_level = None
            file.execute("PRAGMA busy_timeout = 30000")
            file.execute("BEGIN IMMEDIATE")
            wait_until(lambda: not server.client.get("/readyz").is_success, "it is known")
            server.terminate()
        assert not is_there(writer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_both_ends_them_in_order(database_url: str, number: signal.Signals) -> None:
    """Send a signal as a terminal or a service manager does; the writer waits for the server."""
    with FairlogServer(database_url) as server:
        submit(server.client)
        writer = server.writer_pid
        os.killpg(server.pid, number)
        server.wait_until_ended()
        assert not is_there(writer)


KILLS = 6


def test_a_server_outlives_its_writer_and_nothing_accepted_is_lost(database_url: str) -> None:
    accepted: list[int] = []
    is_over = Event()

    def one_after_the_other(client: httpx.Client, user_id: str) -> None:
        for number in count():
            if is_over.is_set():
                return
            body = {"user_id": user_id, "kind": "echo", "payload": number}
            body |= {"idempotency_key": f"{number}"}
            while (answer := client.post("/v1/jobs", json=body)).status_code != 202:
                if answer.status_code == 200:  # a retry of what was on disk
                    break
                assert answer.status_code == 503, answer.text
                assert answer.json()["detail"].endswith(".")
            accepted.append(answer.json()["id"])

    def kill_writer() -> None:
        killed = server.writer_pid
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: server.writers() not in ([], [killed]), "another one is started")

    def wait_for_more() -> None:
        before = len(accepted)
        wait_until(lambda: len(accepted) > before + 50, "submissions go on")

    with FairlogServer(database_url, settings={"user_limit": 1_000_000}) as server:
        with ThreadPoolExecutor(8) as pool:
            clients = [
                pool.submit(one_after_the_other, server.client, f"user-{number}")
                for number in range(8)
            ]
            for _ in range(KILLS):
                wait_for_more()
                kill_writer()
            wait_for_more()
            is_over.set()
            for one in clients:
                one.result()
        wait_until(lambda: server.client.get("/readyz").is_success, "it is ready")
        restarts = f"fairlog_writer_restarts_total {float(KILLS)}\n"
        assert restarts in server.client.get("/metrics").text
        submitted = audit(server.client, type="JobSubmitted")
        assert sorted(accepted) == [event["job_id"] for event in submitted]
        assert "writer_ended" in server.output
        assert "Traceback" not in server.output
    assert commands_on(database_url)("verify").startswith("Clean: ")


def test_a_server_whose_writers_end_before_they_answer_ends_too(database_url: str) -> None:
    with FairlogServer(database_url) as server:
        submit(server.client)
        while not server.has_ended():
            for writer in server.writers():
                with suppress(ProcessLookupError):
                    os.kill(writer, signal.SIGKILL)
            time.sleep(0.02)
        assert "has ended again and again" in server.output
        assert "Traceback" not in server.output
        server.start()
        submit(server.client, "bob")


def test_a_page_shows_what_was_just_submitted(database_url: str) -> None:
    """The rows that it shows are written behind the log, by the writer's process."""
    with FairlogServer(database_url, settings={"window_seconds": LONGEST_WINDOW}) as server:
        for number in range(5):
            job = submit(server.client, payload=number)
            limits = server.client.get("/v1/limits/ada")
            assert (limits.status_code, limits.json()["used"]) == (200, number + 1)
            assert f'id="job-{job["id"]}"' in server.client.get(f"/jobs?after={job['id'] - 1}").text
