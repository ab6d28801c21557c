"""Reads that take long, more of them than there are threads, keep nothing else waiting."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Connection

from entrypoints import long_reads
from entrypoints.time_travel import TimeTravel
from tests.support.server import AppServer, claim, problem, submit, wait_until

CLIENTS = 24


def test_the_past_keeps_no_claim_and_no_look_at_readiness_waiting(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_reads, "WAIT_SECONDS_MAX", 1.0)
    go_on, under_way = threading.Event(), threading.Semaphore(0)
    state = TimeTravel.state

    def takes_long(self: TimeTravel, connection: Connection, then: Any) -> Any:
        under_way.release()
        assert go_on.wait(60)
        return state(self, connection, then)

    monkeypatch.setattr(TimeTravel, "state", takes_long)
    with AppServer(database_url) as server, ThreadPoolExecutor(CLIENTS) as pool:
        job = submit(server.client)["id"]

        def look_back(_: int) -> httpx.Response:
            return httpx.get(f"{server.url}/v1/stats?as_of=1", timeout=60)

        asked: list[Future[httpx.Response]] = [pool.submit(look_back, n) for n in range(CLIENTS)]
        for _ in range(long_reads.LONG_READS_AT_ONCE):
            assert under_way.acquire(timeout=30)
        assert server.client.get("/readyz").is_success
        assert [one["id"] for one in claim(server.client)] == [job]
        assert server.client.get(f"/v1/jobs/{job}").json()["state"] == "running"
        refused = CLIENTS - long_reads.LONG_READS_AT_ONCE
        wait_until(lambda: sum(one.done() for one in asked) == refused, "the others are told")
        go_on.set()
        answers = [one.result() for one in asked]
        assert sum(one.is_success for one in answers) == long_reads.LONG_READS_AT_ONCE
        for answer in answers:
            if not answer.is_success:
                assert "long reads" in problem(answer, 503)["detail"]
                assert answer.headers["Retry-After"]
        assert look_back(0).is_success
