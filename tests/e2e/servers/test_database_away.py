"""The database goes away under load and comes back: nothing answered is lost, nothing doubled."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Self

import httpx
import pytest
from msgspec import Struct

from tests.support.mariadb import MariaDB
from tests.support.server import REQUEST_SECONDS_MAX, FairlogServer, audit, problem
from tests.support.waiting import wait_until

CALLERS = 16
SECONDS_MAX = 7.0  # to an error; promised are 5, and a busy machine adds its own
SETTINGS = {"user_limit": 1_000_000, "global_limit": 1_000_000, "lease_seconds": 5}


class Answer(Struct):
    number: int
    response: httpx.Response
    seconds: float


def submission(number: int) -> dict[str, object]:
    return {
        "user_id": f"user {number % 5}",
        "kind": "echo",
        "payload": number,
        "idempotency_key": f"key {number}",
    }


class Load:
    """Callers that submit one job after the other, in a thread of their own, until they leave."""

    def __init__(self, url: str) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._next = 0
        self._leaving = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._call()), name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        self._thread.join()

    def count(self, status: int) -> int:
        return sum(answer.response.status_code == status for answer in self.answers[:])

    async def _call(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=REQUEST_SECONDS_MAX) as client:
            await asyncio.gather(*(self._one_after_the_other(client) for _ in range(CALLERS)))

    async def _one_after_the_other(self, client: httpx.AsyncClient) -> None:
        while not self._leaving:
            self._next += 1
            number, began = self._next, time.monotonic()
            response = await client.post("/v1/jobs", json=submission(number))
            self.answers.append(Answer(number, response, time.monotonic() - began))


def stopped(database: MariaDB) -> Callable[[], None]:
    database.stop()
    return database.start


def killed(database: MariaDB) -> Callable[[], None]:
    database.kill()
    return database.start


def frozen(database: MariaDB) -> Callable[[], None]:
    database.pause()
    return database.resume


def done(client: httpx.Client) -> int:
    """The number of jobs that are done."""
    answer = client.get("/v1/stats")
    assert answer.status_code == 200, answer.text
    return int(answer.json()["jobs"]["done"])


@pytest.mark.parametrize("take_away", [stopped, killed, frozen])
def test_callers_hear_it_soon_and_the_service_goes_on_by_itself(
    private_mariadb: MariaDB, take_away: Callable[[MariaDB], Callable[[], None]]
) -> None:
    url = private_mariadb.create_database()
    with FairlogServer(url, workers=2, server_id="one", settings=SETTINGS) as server:
        client = server.client
        with Load(server.url) as load:
            wait_until(lambda: load.count(202) >= 200, "jobs are accepted")
            bring_back = take_away(private_mariadb)
            wait_until(lambda: load.count(503) >= CALLERS, "callers are told")
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 503
            bring_back()
            accepted = load.count(202)
            wait_until(lambda: load.count(202) >= accepted + 200, "jobs are accepted again")
        wait_until(lambda: client.get("/readyz").status_code == 200, "the server is ready again")

        told = [answer for answer in load.answers if answer.response.status_code != 202]
        slowest = max(answer.seconds for answer in told)
        print(f"{take_away.__name__}: {len(told)} told, the slowest after {slowest:.1f} s")
        for answer in told:
            assert "sent again" in problem(answer.response, 503)["detail"]
            assert int(answer.response.headers["Retry-After"]) >= 1
        assert slowest < SECONDS_MAX

        # Whoever was told so sends the same again; what had been written after all is recognised.
        for answer in told:
            again = client.post("/v1/jobs", json=submission(answer.number))
            assert again.status_code in {200, 202}, again.text
        jobs = len(load.answers)
        wait_until(lambda: done(client) == jobs, "all are done", 60)
        events = audit(client)

    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    submitted = {
        event["data"]["idempotency_key"]: event["job_id"]
        for event in events
        if event["type"] == "JobSubmitted"
    }
    assert sum(event["type"] == "JobSubmitted" for event in events) == jobs
    assert submitted.keys() == {f"key {answer.number}" for answer in load.answers}
    for answer in load.answers:
        if answer.response.status_code == 202:
            assert submitted[f"key {answer.number}"] == answer.response.json()["id"]
    completed = Counter(event["job_id"] for event in events if event["type"] == "JobCompleted")
    assert completed == dict.fromkeys(submitted.values(), 1)
