"""Reads that take long, more of them than there are threads, keep nothing else waiting."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.log_history import LiveHistory
from entrypoints.service import long_reads
from entrypoints.service import queries as questions
from entrypoints.use_cases.time_travel import TimeTravel
from projections.queries.job_search import JobSearch
from tests.support.server import AppServer, claim, problem, submit
from tests.support.waiting import wait_until

CLIENTS = 24


@pytest.mark.parametrize(
    ("path", "module", "name"),
    [
        ("/v1/audit?user_id=ada&type=JobFailed", audit_log, "find"),
        ("/v1/audit?limit=1000", audit_log, "find"),
        ("/v1/jobs?limit=1000", questions, "fitting_jobs"),
        ("/v1/jobs?include=payload", LiveHistory, "bodies_at"),
        ("/audit?user=ada&type=JobFailed&before={}", audit_log, "find_newest"),
        ("/jobs?user=ada&kind=echo&before={}", JobSearch, "older"),
        ("/jobs/2?as_of={}", TimeTravel, "position"),
        ("/audit/state?as_of={}", TimeTravel, "state"),
    ],
)
def test_large_pages_and_what_looks_at_much_keep_nothing_else_waiting(
    database_url: str, monkeypatch: pytest.MonkeyPatch, path: str, module: Any, name: str
) -> None:
    """Each is held up where it reads; the small calls need none of its threads."""
    monkeypatch.setattr(long_reads, "WAIT_SECONDS_MAX", 1.0)
    go_on, under_way = threading.Event(), threading.Semaphore(0)
    ask = getattr(module, name)

    def takes_long(*arguments: Any, **named: Any) -> Any:
        under_way.release()
        assert go_on.wait(60)
        return ask(*arguments, **named)

    with AppServer(database_url) as server, ThreadPoolExecutor(CLIENTS) as pool:
        job = submit(server.client, payload="x" * (long_reads.LARGE_BYTES + 1))["id"]
        assert job == 2
        small = submit(server.client, payload="small")["id"]
        for number in range(CLIENTS // 2):  # so that there are as many positions to look back to
            submit(server.client, payload=number)
        with monkeypatch.context() as patched:
            is_static = isinstance(vars(module)[name], staticmethod)
            patched.setattr(module, name, staticmethod(takes_long) if is_static else takes_long)

            def look(number: int) -> int:
                return httpx.get(server.url + path.format(number + 2), timeout=60).status_code

            asked = [pool.submit(look, number) for number in range(CLIENTS)]
            for _ in range(long_reads.LONG_READS_AT_ONCE):
                assert under_way.acquire(timeout=30)
            refused = CLIENTS - long_reads.LONG_READS_AT_ONCE
            wait_until(lambda: sum(one.done() for one in asked) == refused, "the others are told")
            assert server.client.get("/readyz").is_success
            assert server.client.get("/v1/limits/ada").is_success
            patched.undo()
            assert server.client.get(f"/v1/jobs/{small}").json()["payload"] == "small"
            assert [one["id"] for one in claim(server.client, 2)] == [job, small]
            go_on.set()
        statuses = sorted(one.result() for one in asked)
        assert statuses == [200] * long_reads.LONG_READS_AT_ONCE + [503] * refused


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
