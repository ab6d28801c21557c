"""Issue 5, 1 and 2: workers and servers killed at random; a worker frozen past its lease."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.language.events import JobCompleted, JobRequeued, JobStarted, Recorded, RequeueReason
from domain.language.policy import Policy
from tests.support.referee import Referee
from tests.support.server import FairlogServer, audit, claim, problem, submit
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, log_at

pytestmark = pytest.mark.parametrize("backend", ["mariadb"], indirect=True)

JOBS, USERS = 2000, 20
LEASE_SECONDS = 4
CHAOS_SECONDS_MAX = 45.0
END_SECONDS_MAX = 95.0
LIMITS = {"user_limit": 100_000, "global_limit": 1_000_000}
HANDLERS = """
import asyncio
import pathlib
import time

async def work(payload):
    await asyncio.sleep(payload)
    return payload

def hold(payload):
    while not pathlib.Path(payload).exists():
        time.sleep(0.01)
    return "too late"
"""


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    path = tmp_path / "held_jobs.py"
    path.write_text(HANDLERS)
    return str(path)


def submit_all(clients: Sequence[httpx.Client]) -> None:
    """Submit in batches to any server that answers; by its key, no repeat is a second job."""
    chance = random.Random(1)
    for start in range(0, JOBS, 100):
        wish = [
            {
                "user_id": f"user-{number % USERS}",
                "kind": "work",
                "max_attempts": 20,
                "payload": chance.choice([0, 0.05, 0.1, 0.2]),
                "idempotency_key": str(number),
            }
            for number in range(start, start + 100)
        ]

        def was_accepted(wish: object = wish) -> bool:
            try:
                answer = chance.choice(clients).post("/v1/jobs/batch", json={"jobs": wish})
            except httpx.TransportError:
                return False
            return answer.is_success and all(
                one["status"] in {200, 202} for one in answer.json()["jobs"]
            )

        wait_until(was_accepted, "a batch is accepted", END_SECONDS_MAX)


def done(client: httpx.Client) -> int:
    try:
        return int(client.get("/v1/stats").json()["jobs"]["done"])
    except (httpx.TransportError, KeyError):
        return -1


def assert_each_is_done_once_by_its_current_attempt(recorded: Sequence[Recorded]) -> None:
    given: dict[int, int] = {}
    completed: Counter[int] = Counter()
    for one in recorded:
        assert one.job_id is not None or not isinstance(one.event, JobStarted | JobCompleted)
        if isinstance(one.event, JobStarted) and one.job_id is not None:
            given[one.job_id] = one.event.attempt
        if isinstance(one.event, JobCompleted) and one.job_id is not None:
            assert one.event.attempt == given[one.job_id], one
            completed[one.job_id] += 1
    assert len(completed) == JOBS
    assert set(completed.values()) == {1}


@pytest.mark.timeout(240)  # 40 s on a machine of its own
def test_every_job_is_done_once_although_workers_and_servers_are_killed(
    database_url: str, handlers: str
) -> None:
    chance = random.Random()
    settings = {**LIMITS, "lease_seconds": LEASE_SECONDS}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(FairlogServer(database_url, settings=settings)) for _ in range(2)
        ]
        options = ["--handlers", handlers, "--concurrency", "6", "--prefetch", "3"]
        workers = [
            stack.enter_context(WorkerProcess(servers[number % 2].url, *options))
            for number in range(3)
        ]
        clients = [
            stack.enter_context(httpx.Client(base_url=server.url, timeout=20)) for server in servers
        ]
        processes: list[FairlogServer | WorkerProcess] = [*servers, *workers]
        submitting = threading.Thread(target=submit_all, args=(clients,))
        started = time.monotonic()
        submitting.start()
        kills: Counter[str] = Counter()

        def nearly_all_done() -> bool:
            return max(map(done, clients)) >= JOBS * 0.95

        while time.monotonic() - started < CHAOS_SECONDS_MAX and not nearly_all_done():
            victim = chance.choice(processes)
            victim.kill()
            victim.start()
            kills[type(victim).__name__] += 1
            _let_pass(chance.uniform(1, 3), until=nearly_all_done)
        submitting.join()
        left = END_SECONDS_MAX - (time.monotonic() - started)
        wait_until(lambda: max(map(done, clients)) == JOBS, "all are done", left)
        seconds = time.monotonic() - started
        recorded = log_at(database_url)
    requeued = Counter(one.event.reason for one in recorded if isinstance(one.event, JobRequeued))
    print(f"{seconds:.0f} s; killed {dict(kills)}; queued again {dict(requeued)}")
    assert kills.total() >= 3
    assert requeued[RequeueReason.LEASE_LOST]
    assert_each_is_done_once_by_its_current_attempt(recorded)
    referee = Referee(
        Policy(user_limit=100_000, global_limit=1_000_000, lease_seconds=LEASE_SECONDS)
    )
    referee.see_all(recorded)
    assert referee.states() == {"done": JOBS}


def _let_pass(seconds: float, *, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > deadline or until(), "some seconds")


def test_a_worker_frozen_past_its_lease_does_not_overwrite_the_other_attempt(
    database_url: str, handlers: str, tmp_path: Path
) -> None:
    thaw = tmp_path / "thaw"
    with (
        FairlogServer(database_url, settings={"lease_seconds": 1}) as server,
        WorkerProcess(server.url, "--handlers", handlers, "--concurrency", "1") as worker,
    ):
        client = server.client

        def state() -> str:
            return str(client.get(f"/v1/jobs/{job}").json()["state"])

        job = submit(client, kind="hold", payload=str(thaw))["id"]
        wait_until(lambda: state() == "running", "the worker has it")
        worker.freeze()
        given: list[dict[str, Any]] = []

        def is_given_to_another() -> bool:
            given.extend(claim(client, worker="other", kinds=["hold"]))
            return bool(given)

        wait_until(is_given_to_another, "the lease is over")
        assert [(one["id"], one["attempt"]) for one in given] == [(job, 2)]
        thaw.touch()  # the frozen handler ends as soon as it goes on
        late = client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1, "result": "too late"})
        assert "attempt 1" in problem(late, 409)["detail"]
        outcome = {"attempt": 2, "result": "in time"}
        client.post(f"/v1/jobs/{job}/complete", json=outcome).raise_for_status()
        worker.resume()
        following = submit(client, kind="work", payload=0)["id"]  # it works on
        wait_until(
            lambda: client.get(f"/v1/jobs/{following}").json()["state"] == "done", "it works on"
        )
        worker.terminate()
        again = client.get(f"/v1/jobs/{job}").json()
        assert (again["state"], again["result"], again["attempt"]) == ("done", "in time", 2)
        assert [
            event["data"]["attempt"] for event in audit(client, job_id=job, type="JobCompleted")
        ] == [2]
        assert "outcome_dropped" in worker.output or "job_lost" in worker.output
