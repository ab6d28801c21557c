"""Requests that wait for the end of a job, on one server and on two."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from adapters.settings import Settings
from domain.language.events import Role
from tests.support.core import execute_now
from tests.support.keys import create_key, revoke_key, secret
from tests.support.server import AppServer, FairlogServer, claim, problem, submit
from tests.support.waiting import until, wait_until

SETTINGS = Settings(user_limit=100_000, global_limit=1_000_000)
WAITERS = 5_000
WAITERS_OF_ONE = 200
SOON_SECONDS = 10.0  # what usually takes milliseconds, on a machine that is busy
STATEMENTS_MAX = 25  # of a server in a second, whoever waits


@pytest.fixture
def server(database_url: str) -> Iterator[AppServer]:
    with AppServer(database_url, SETTINGS) as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def waiting(pool: ThreadPoolExecutor, server: AppServer, job_id: int) -> "Future[httpx.Response]":
    """Begin to wait for a job, and return once the server waits for it."""
    before = server.fairlog.job_ends.waiting
    answer = pool.submit(server.client.get, f"/v1/jobs/{job_id}", params={"wait_seconds": 60})
    wait_until(lambda: server.fairlog.job_ends.waiting > before, "the request waits")
    return answer


def complete(server: AppServer, job_id: int, **fields: Any) -> None:
    assert [job["id"] for job in claim(server.client)] == [job_id]
    answer = server.client.post(f"/v1/jobs/{job_id}/complete", json={"attempt": 1, **fields})
    assert answer.status_code == 200, answer.text


def test_the_answer_comes_with_the_result_when_the_job_has_ended(
    server: AppServer, pool: ThreadPoolExecutor
) -> None:
    job_id = submit(server.client)["id"]
    answers = [waiting(pool, server, job_id) for _ in range(2)]
    complete(server, job_id, result={"pages": 10})
    for answer in answers:
        job = answer.result(SOON_SECONDS).json()
        assert (job["state"], job["result"]) == ("done", {"pages": 10})
    assert job == server.client.get(f"/v1/jobs/{job_id}").json()


def test_a_job_that_has_ended_is_answered_at_once(server: AppServer) -> None:
    job_id = submit(server.client)["id"]
    complete(server, job_id)
    asked = time.monotonic()
    assert server.client.get(f"/v1/jobs/{job_id}?wait_seconds=60").json()["state"] == "done"
    assert time.monotonic() - asked < SOON_SECONDS


def test_the_end_at_another_server_is_seen(database_url: str, pool: ThreadPoolExecutor) -> None:
    with AppServer(database_url, SETTINGS) as asked, AppServer(database_url, SETTINGS) as told:
        job_id = submit(told.client)["id"]
        answer = waiting(pool, asked, job_id)
        complete(told, job_id, result=[1, 2])
        assert answer.result(SOON_SECONDS).json()["result"] == [1, 2]


def test_only_a_final_failure_ends_a_wait(server: AppServer, pool: ThreadPoolExecutor) -> None:
    job_id = submit(server.client, max_attempts=2)["id"]
    answer = waiting(pool, server, job_id)
    for attempt in (1, 2):
        wait_until(
            lambda: [job["id"] for job in claim(server.client)] == [job_id], "the attempt is due"
        )
        body = {"attempt": attempt, "error": f"failure {attempt}", "retry_in_seconds": 0}
        assert server.client.post(f"/v1/jobs/{job_id}/fail", json=body).status_code == 200
    job = answer.result(SOON_SECONDS).json()
    assert (job["state"], job["error"]) == ("failed", "failure 2")


def test_a_cancellation_ends_a_wait(server: AppServer, pool: ThreadPoolExecutor) -> None:
    job_id = submit(server.client)["id"]
    answer = waiting(pool, server, job_id)
    server.client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    assert answer.result(SOON_SECONDS).json()["state"] == "cancelled"


def test_after_wait_seconds_the_answer_shows_how_the_job_stands(server: AppServer) -> None:
    job_id = submit(server.client)["id"]
    claim(server.client)
    answer = server.client.get(f"/v1/jobs/{job_id}?wait_seconds=0.2")
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert server.fairlog.job_ends.waiting == 0


def test_a_submission_waits_for_its_result(server: AppServer, pool: ThreadPoolExecutor) -> None:
    body = {"user_id": "ada", "kind": "echo", "payload": 1, "idempotency_key": "k"}
    statuses = []
    answers = [
        pool.submit(server.client.post, "/v1/jobs?wait_seconds=60", json=body) for _ in range(2)
    ]
    wait_until(lambda: server.fairlog.job_ends.waiting == 2, "both wait")
    [claimed] = claim(server.client, 2)
    complete_body = {"attempt": 1, "result": "done"}
    server.client.post(f"/v1/jobs/{claimed['id']}/complete", json=complete_body).raise_for_status()
    for one in answers:
        answer = one.result(SOON_SECONDS)
        job = answer.json()
        statuses.append((answer.status_code, job["is_duplicate"], "duplicate" in job))
        assert (job["id"], job["state"], job["result"]) == (claimed["id"], "done", "done")
        assert answer.headers["Location"] == f"/v1/jobs/{claimed['id']}"
        assert "RateLimit" in answer.headers
    assert sorted(statuses) == [(200, True, True), (202, False, False)]


def test_an_accepted_submission_that_is_not_done_in_time_is_answered(server: AppServer) -> None:
    body = {"user_id": "ada", "kind": "echo", "payload": 1}
    answer = server.client.post("/v1/jobs?wait_seconds=0.2", json=body)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_all_are_answered_when_the_server_stops(
    database_url: str, pool: ThreadPoolExecutor
) -> None:
    with AppServer(database_url, SETTINGS) as server:
        answer = waiting(pool, server, submit(server.client)["id"])
        server.fairlog.log_watcher._event_loop.call_soon_threadsafe(  # type: ignore[union-attr]  # it runs
            server.fairlog.release_listeners
        )
        assert answer.result(SOON_SECONDS).json()["state"] == "queued"


@pytest.mark.parametrize("seconds", ["-1", "61", "nan", "inf"])
def test_other_times_are_refused(server: AppServer, seconds: str) -> None:
    job_id = submit(server.client)["id"]
    answer = server.client.get(f"/v1/jobs/{job_id}?wait_seconds={seconds}")
    assert "from 0 to 60" in problem(answer, 400)["detail"]
    body = {"user_id": "ada", "kind": "echo", "payload": "never accepted"}
    answer = server.client.post(f"/v1/jobs?wait_seconds={seconds}", json=body)
    assert "from 0 to 60" in problem(answer, 400)["detail"]
    assert len(server.client.get("/v1/jobs").json()["jobs"]) == 1


def test_the_past_cannot_be_waited_for(server: AppServer) -> None:
    job_id = submit(server.client)["id"]
    problem(server.client.get(f"/v1/jobs/{job_id}?as_of=3&wait_seconds=1"), 400)


def test_a_job_that_does_not_exist_is_not_waited_for(server: AppServer) -> None:
    problem(server.client.get("/v1/jobs/999?wait_seconds=60"), 404)


def test_a_key_waits_for_its_own_jobs_alone_and_no_longer_than_it_lives(
    database_url: str, pool: ThreadPoolExecutor
) -> None:
    with AppServer(database_url, SETTINGS) as server:
        execute_now(server.fairlog, create_key("alice", Role.SUBMITTER, users=("alice",)))
        execute_now(server.fairlog, create_key("bob", Role.SUBMITTER, users=("bob",)))
        alice, bob = (
            httpx.Client(
                base_url=server.url,
                headers={"Authorization": f"Bearer {secret(name)}"},
                timeout=60,
            )
            for name in ("alice", "bob")
        )
        with alice, bob:
            job_id = submit(alice, "alice")["id"]
            problem(bob.get(f"/v1/jobs/{job_id}?wait_seconds=60"), 404)
            answer = pool.submit(alice.get, f"/v1/jobs/{job_id}?wait_seconds=60")
            wait_until(lambda: server.fairlog.job_ends.waiting == 1, "it waits")
            execute_now(server.fairlog, revoke_key("alice"))
            problem(answer.result(SOON_SECONDS), 401)


def test_large_results_reach_all_who_wait(server: AppServer, pool: ThreadPoolExecutor) -> None:
    results = {submit(server.client, payload=one)["id"]: f"{one}" * 900_000 for one in range(7)}
    answers = {job_id: waiting(pool, server, job_id) for job_id in results}
    outcomes = [
        {"id": job["id"], "attempt": 1, "result": results[job["id"]]}
        for job in claim(server.client, 7)
    ]
    body = {"worker": "w1", "jobs": outcomes}
    server.client.post("/v1/claims/complete", json=body).raise_for_status()
    for job_id, answer in answers.items():
        assert answer.result(SOON_SECONDS).json()["result"] == results[job_id]


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)  # as the next one
def test_who_waits_costs_no_statement_each(server: AppServer) -> None:
    job_ids = [submit(server.client, payload=one)["id"] for one in range(WAITERS_OF_ONE)]

    async def wait_for_all() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            answers = [
                asyncio.create_task(client.get(f"/v1/jobs/{one}", params={"wait_seconds": 8}))
                for one in job_ids
            ]
            await until(lambda: server.fairlog.job_ends.waiting == WAITERS_OF_ONE)
            await asyncio.sleep(1)  # until the rows are saved and the log is followed
            with statements(server.fairlog.database.engine) as sent:
                await asyncio.sleep(2)
                assert len(sent) < 2 * STATEMENTS_MAX
            for answer in await asyncio.gather(*answers):
                assert answer.json()["state"] == "queued"

    asyncio.run(wait_for_all())


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)  # what waits does not ask it
def test_thousands_wait_on_one_server(database_url: str) -> None:
    settings = {
        "user_limit": 100_000,
        "global_limit": 100_000,
        "max_connections": WAITERS + 500,
    }
    with FairlogServer(database_url, settings=settings) as server:
        job_ids: list[int] = []
        for start in range(0, WAITERS, 1000):
            jobs = [
                {"user_id": "ada", "kind": "echo", "payload": start + one} for one in range(1000)
            ]
            answer = server.client.post("/v1/jobs/batch", json={"jobs": jobs})
            job_ids += [one["job"]["id"] for one in answer.json()["jobs"]]
        arrived = asyncio.run(_answered_after_the_ends(server, job_ids))
    print(f"{WAITERS} answers, the latest {max(arrived):.2f} s after the last end")


async def _answered_after_the_ends(server: FairlogServer, job_ids: list[int]) -> list[float]:
    """Wait for each job over a connection of its own, complete all, and return when the answers
    came, in seconds after the last job's end. Each answer is checked.
    """
    arrived: list[float] = []

    async def wait_for(job_id: int) -> None:
        async with slots:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"GET /v1/jobs/%d?wait_seconds=60 HTTP/1.1\r\nHost: localhost\r\n"
                b"Connection: close\r\n\r\n" % job_id
            )
            await writer.drain()
        answer = await reader.read()
        arrived.append(time.monotonic())
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
        assert b'"id":%d,' % job_id in answer
        assert b'"state":"done"' in answer
        assert b'"result":%d,' % job_id in answer

    slots = asyncio.Semaphore(200)  # connections that open at once
    async with (
        asyncio.TaskGroup() as waiters,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        for job_id in job_ids:
            waiters.create_task(wait_for(job_id))
        async with asyncio.timeout(50):
            while await _requests_waiting(client) < len(job_ids):  # noqa: ASYNC110 (in the server)
                await asyncio.sleep(0.2)
        for _ in range(0, len(job_ids), 1000):
            claimed = await client.post("/v1/claims", json={"worker": "w", "max": 1000})
            outcomes = [
                {"id": one["id"], "attempt": one["attempt"], "result": one["id"]}
                for one in claimed.json()["jobs"]
            ]
            body = {"worker": "w", "jobs": outcomes}
            (await client.post("/v1/claims/complete", json=body)).raise_for_status()
        ended = time.monotonic()
    assert len(arrived) == len(job_ids)
    return [one - ended for one in arrived]


async def _requests_waiting(client: httpx.AsyncClient) -> int:
    text = (await client.get("/metrics")).text
    [line] = [one for one in text.splitlines() if one.startswith("fairlog_waiting_for_ends")]
    return int(float(line.split()[-1]))
