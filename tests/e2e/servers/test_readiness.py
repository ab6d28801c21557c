"""A server that cannot do its work says so, and goes on by itself as soon as it can."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url

from tests.support.fault_proxy import FaultProxy
from tests.support.mariadb import MariaDB
from tests.support.server import FairlogServer, audit, claim, problem, submit
from tests.support.waiting import wait_until

PROMISED_SECONDS_MAX = 5.0
SECONDS_MAX = PROMISED_SECONDS_MAX + 3.0  # a busy machine adds its own
SETTINGS = {"user_limit": 1_000_000, "global_limit": 1_000_000, "lease_seconds": 3}


def ready(server: FairlogServer) -> dict[str, Any]:
    answer = server.client.get("/readyz")
    found: dict[str, Any] = answer.json()
    assert found["ready"] is (answer.status_code == 200)
    if not found["ready"]:
        assert found["reason"]
    return found


def failing(server: FairlogServer) -> dict[str, str]:
    """The parts that fail, each with its reason."""
    return {one["part"]: one["reason"] for one in ready(server)["failing"]}


def gauge(server: FairlogServer, part: str) -> float:
    answer = server.client.get("/metrics")
    assert answer.status_code == 200, answer.text
    [line] = [
        one
        for one in answer.text.splitlines()
        if one.startswith(f'fairlog_part_works{{part="{part}"}}')
    ]
    return float(line.split()[-1])


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=1)).isoformat()


def assert_all_loops_run(server: FairlogServer) -> None:
    """Schedules are acted on, leases expire, and streams tell of it."""
    told: list[str] = []

    def listen() -> None:
        with httpx.stream("GET", f"{server.url}/v1/stream", timeout=60.0) as stream:
            for line in stream.iter_lines():
                told.append(line)
                if '"JobReleased"' in line:
                    return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    wait_until(lambda: bool(told), "the stream has begun")
    scheduled = submit(server.client, "eve", run_at=soon(), payload=time.time_ns())
    wait_until(
        lambda: server.client.get(f"/v1/jobs/{scheduled['id']}").json()["state"] != "scheduled",
        "a scheduled job is released",
    )
    listener.join(30)
    assert not listener.is_alive()
    wait_until(lambda: not failing(server), "all parts work")
    assert ready(server)["ready"]


@contextmanager
def no_connections(mariadb: MariaDB, url: str) -> Iterator[None]:
    """The account may have one connection, which somebody else has."""
    user = make_url(url).username
    with mariadb.connect() as admin, admin.cursor() as cursor:
        cursor.execute("SELECT host FROM mysql.user WHERE user = %s", (user,))
        hosts = [host for (host,) in cursor.fetchall()]
        for host in hosts:
            cursor.execute("ALTER USER %s@%s WITH MAX_USER_CONNECTIONS 1", (user, host))
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", (user,))
        for (number,) in cursor.fetchall():
            cursor.execute("KILL %s", (number,))
        yield
        for host in hosts:
            cursor.execute("ALTER USER %s@%s WITH MAX_USER_CONNECTIONS 0", (user, host))


def test_an_account_without_connections_is_told_and_every_loop_goes_on_afterwards(
    private_mariadb: MariaDB,
) -> None:
    url = private_mariadb.create_database()
    with FairlogServer(url, settings=SETTINGS) as server:
        submit(server.client)
        with no_connections(private_mariadb, url):
            wait_until(lambda: not ready(server)["ready"], "it is not ready")
            wait_until(
                lambda: "MAX_USER_CONNECTIONS" in " ".join(failing(server).values()),
                "the reason is told",
            )
        assert_all_loops_run(server)
        assert "part_failing" in server.output


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("prefix", ["jobs", "line", "window", "activity"])
def test_a_table_that_is_away_for_a_while_is_told_and_every_loop_goes_on_afterwards(
    database_url: str, prefix: str
) -> None:
    with FairlogServer(database_url, settings=SETTINGS) as server:
        submit(server.client)
        with sqlite3.connect(make_url(database_url).database or "", timeout=30) as file:
            [(table,), *_] = file.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE ? ORDER BY name",
                (f"{prefix}%",),
            ).fetchall()
            file.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
            file.commit()

            def is_told() -> bool:
                submission = {"user_id": "bob", "kind": "echo", "payload": time.time_ns()}
                answer = server.client.post("/v1/jobs", json=submission)
                if answer.status_code != 202:
                    assert "fairlog migrate" in problem(answer, 503)["detail"]
                    assert answer.headers["Retry-After"]
                return "fairlog migrate" in " ".join(failing(server).values())

            wait_until(is_told, "a part is said to fail, with the reason")
            assert ready(server)["ready"] is (prefix == "activity")
            file.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
            file.commit()
        file.close()
        wait_until(lambda: ready(server)["ready"], "it is ready again")
        wait_until(lambda: not failing(server), "all parts work again")
        assert_all_loops_run(server)


def test_callers_of_a_writer_that_was_stopped_hear_it_soon(database_url: str) -> None:
    with FairlogServer(database_url, settings=SETTINGS) as server:
        for number in range(3):
            submit(server.client, payload=number)

        def post(number: int) -> httpx.Response:
            return server.client.post(
                "/v1/jobs", json={"user_id": "bob", "kind": "echo", "payload": number}
            )

        writer = server.writer_pid
        os.kill(writer, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with ThreadPoolExecutor(20) as threads:
                answers = list(threads.map(post, range(16)))
            answers.append(server.client.post("/v1/claims", json={"worker": "gone", "max": 1}))
            seconds = time.monotonic() - began
            for answer in answers:
                assert "sent again" in problem(answer, 503)["detail"]
                assert answer.headers["Retry-After"]
            assert seconds < 2 * SECONDS_MAX  # submissions together, then the claim
            assert "writer_process" in failing(server)
            assert gauge(server, "writer_process") == 0
        finally:
            os.kill(writer, signal.SIGCONT)
        wait_until(lambda: ready(server)["ready"], "it is ready again")
        submit(server.client, "carol")
        wait_until(
            lambda: len(claim(server.client, 10, "here", kinds=["echo"])) == 1 or is_free(server),
            "what nobody was given goes back",
        )
        assert_all_loops_run(server)
        events = audit(server.client)
        assert [event["position"] for event in events] == list(range(1, len(events) + 1))


def is_free(server: FairlogServer) -> bool:
    """No job is held by the worker that has gone."""
    jobs = server.client.get("/v1/jobs", params={"state": "running"}).json()["jobs"]
    return all(job["worker"] != "gone" for job in jobs)


def test_many_reads_at_once_hear_soon_that_the_database_hangs(private_mariadb: MariaDB) -> None:
    url = private_mariadb.create_database()
    with FairlogServer(url, settings=SETTINGS) as server:
        job = submit(server.client)

        def read(_: int) -> tuple[int, float]:
            began = time.monotonic()
            with httpx.Client(timeout=60.0) as client:
                answer = client.get(f"{server.url}/v1/jobs/{job['id']}")
            return answer.status_code, time.monotonic() - began

        private_mariadb.pause()
        try:
            with ThreadPoolExecutor(60) as threads:
                answers = list(threads.map(read, range(60)))
            assert server.client.get("/livez").status_code == 200
            assert "reads" in failing(server)
            assert gauge(server, "reads") == 0
        finally:
            private_mariadb.resume()
        slowest = max(seconds for _, seconds in answers)
        print(f"the slowest of {len(answers)} after {slowest:.1f} s")
        assert {status for status, _ in answers} == {503}
        assert slowest < SECONDS_MAX
        assert_all_loops_run(server)


def test_a_table_that_somebody_has_locked_is_told_while_it_is(private_mariadb: MariaDB) -> None:
    """Reads wait for it: each has a connection, and a statement that began."""
    url = private_mariadb.create_database()
    with FairlogServer(url, settings=SETTINGS) as server:
        submit(server.client)
        with private_mariadb.connect() as admin, admin.cursor() as cursor:
            cursor.execute(f"USE `{make_url(url).database}`")
            cursor.execute("LOCK TABLES log_head WRITE")
            for _ in range(2):
                answer = server.client.get("/readyz", timeout=SECONDS_MAX * 3)
                assert answer.status_code == 503
                assert answer.json()["reason"]
            cursor.execute("UNLOCK TABLES")
        wait_until(lambda: ready(server)["ready"], "it is ready again")
        assert_all_loops_run(server)


def test_a_finished_job_is_recorded_once_the_disk_has_room_again(
    private_mariadb: MariaDB,
) -> None:
    with (
        FaultProxy(private_mariadb.create_database()) as proxy,
        FairlogServer(proxy.url, workers=1, settings=SETTINGS | {"lease_seconds": 30}) as server,
    ):
        job = submit(server.client, kind="sleep", payload={"seconds": 1.5})
        wait_until(
            lambda: server.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running",
            "it runs",
        )
        proxy.fail("INSERT INTO events", 1114, times=1_000_000)
        wait_until(lambda: "writes" in failing(server), "the disk is full")
        assert "disk" in failing(server)["writes"]
        answer = server.client.post(
            "/v1/jobs", json={"user_id": "bob", "kind": "echo", "payload": 1}
        )
        assert "disk" in problem(answer, 503)["detail"]
        assert answer.headers["Retry-After"]
        assert gauge(server, "writes") == 0
        wait_until(lambda: "outcomes_delayed" in server.output, "the outcome waits")
        proxy.recover()
        wait_until(
            lambda: server.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "done",
            "the outcome is recorded",
        )
        assert server.client.get(f"/v1/jobs/{job['id']}").json()["attempt"] == 1
        assert_all_loops_run(server)
        assert "outcome_dropped" not in server.output


def cut(proxy: FaultProxy) -> None:
    proxy.cut()


def refuse(proxy: FaultProxy) -> None:
    proxy.refuse_connections()
    proxy.cut()


def deadlock_at_each_commit(proxy: FaultProxy) -> None:
    proxy.fail("^COMMIT", 1213, times=200)


@pytest.mark.parametrize("break_it", [cut, refuse, deadlock_at_each_commit])
def test_a_server_goes_on_after_its_connections_were_in_any_trouble(
    private_mariadb: MariaDB, break_it: Callable[[FaultProxy], None]
) -> None:
    with (
        FaultProxy(private_mariadb.create_database()) as proxy,
        FairlogServer(proxy.url, settings=SETTINGS) as server,
    ):
        submit(server.client)
        break_it(proxy)

        def post(number: int) -> httpx.Response:
            return server.client.post(
                "/v1/jobs", json={"user_id": "bob", "kind": "echo", "payload": number}
            )

        for start in range(3):  # each is several at once, and may wait for its time to be over
            with ThreadPoolExecutor(5) as pool:
                for answer in pool.map(post, range(5 * start, 5 * start + 5)):
                    assert answer.status_code in {202, 503}, answer.text
        proxy.recover()
        wait_until(lambda: ready(server)["ready"], "it is ready again")
        accepted = submit(server.client, "carol")
        assert accepted["state"] == "queued"
        assert_all_loops_run(server)
