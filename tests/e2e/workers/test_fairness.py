"""Issue 5, 3 and 4: fairness with batches and prefetch, and caps that hold over all processes."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from domain.language.events import JobCompleted, JobFailed, JobRequeued, JobStarted, Recorded
from domain.language.identifiers import WorkerId
from domain.language.policy import Policy
from fairlog_client.handlers.loading import load_handlers
from fairlog_client.worker.http_source import RemoteSource, client_of
from fairlog_client.worker.runner import LocalExecutor
from fairlog_client.worker.worker import Worker
from tests.support.referee import Referee
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, log_at

pytestmark = pytest.mark.parametrize("backend", ["mariadb"], indirect=True)

LIMITS = {"user_limit": 100_000, "global_limit": 1_000_000}
POLICY = Policy(user_limit=100_000, global_limit=1_000_000)
BATCH, PREFETCH, WORKERS = 10, 10, 2
HANDLERS = """
import asyncio

async def a(payload):
    await asyncio.sleep(0.003 * (payload % 4))

b = a
"""


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    path = tmp_path / "paced_jobs.py"
    path.write_text(HANDLERS)
    return str(path)


def submit_each(client: httpx.Client, users: int, jobs: int, kinds: str) -> None:
    """Submit a number of jobs of each user, of these kinds in turn."""
    wish = [
        {"user_id": f"user-{user}", "payload": number, "kind": kinds[number % len(kinds)]}
        for number in range(jobs)
        for user in range(users)
    ]
    for start in range(0, len(wish), 1000):
        answer = client.post("/v1/jobs/batch", json={"jobs": wish[start : start + 1000]})
        assert {one["status"] for one in answer.json()["jobs"]} == {202}


def wait_until_done(server: FairlogServer, jobs: int) -> None:
    def all_are_done() -> bool:
        return bool(server.client.get("/v1/stats").json()["jobs"]["done"] == jobs)

    wait_until(all_are_done, "all are done", 80)


def test_with_batches_and_prefetch_users_differ_by_the_jobs_in_hand_at_most(
    database_url: str, handlers: str
) -> None:
    users, jobs = 50, 24
    options = ["--handlers", handlers, "--concurrency", str(BATCH), "--prefetch", str(PREFETCH)]
    with FairlogServer(database_url, settings=LIMITS) as server, ExitStack() as stack:
        submit_each(server.client, users, jobs, "ab")
        for _ in range(WORKERS):
            stack.enter_context(WorkerProcess(server.url, *options))
        wait_until_done(server, users * jobs)
        recorded = log_at(database_url)
    started: Counter[str] = Counter({f"user-{user}": 0 for user in range(users)})
    done = started.copy()
    apart_max = in_hand_max = 0
    for one in recorded:
        if isinstance(one.event, JobStarted):
            started[one.event.user_id] += 1
        if isinstance(one.event, JobCompleted):
            done[one.event.user_id] += 1
        if max(started.values()) == jobs:
            break  # from here on somebody waits no more
        assert max(started.values()) - min(started.values()) <= 1, one
        in_hand = started.total() - done.total()
        apart = max(done.values()) - min(done.values())
        assert apart <= in_hand + 1, one  # the one: a turn that has begun
        apart_max, in_hand_max = max(apart_max, apart), max(in_hand_max, in_hand)
    print(f"at most {apart_max} apart in jobs done, at most {in_hand_max} in hand")
    # By the log, a job whose outcome is on its way is still in hand: at most another batch each.
    assert BATCH < in_hand_max <= WORKERS * (BATCH + PREFETCH + BATCH)


def running_at_most(recorded: Sequence[Recorded], name: str) -> int:
    """The most jobs of one user or kind that ran at once, at any position."""
    running: Counter[str] = Counter()
    most = 0
    for one in recorded:
        match one.event:
            case JobStarted():
                running[getattr(one.event, name)] += 1
            case JobCompleted() | JobFailed() | JobRequeued():
                running[getattr(one.event, name)] -= 1
            case _:
                continue
        most = max(most, *running.values())
    return most


async def work_until(done: asyncio.Event, urls: Sequence[str], count: int, handlers: str) -> None:
    """Start workers with one slot each, over HTTP, in turn at these servers."""
    loaded = load_handlers(handlers)
    clients = [client_of(httpx.URL(url)) for url in urls]
    workers = [
        Worker(
            RemoteSource(clients[number % len(urls)], WorkerId(f"w{number}")),
            LocalExecutor(loaded),
            1,
            wait_seconds=5,
        )
        for number in range(count)
    ]
    for worker in workers:
        worker.start()
    await done.wait()
    await asyncio.gather(*(worker.stop(5) for worker in workers))
    for client in clients:
        await client.aclose()


def test_caps_of_users_and_kinds_hold_at_every_position_of_the_log(
    database_url: str, handlers: str
) -> None:
    users, jobs = 8, 40
    with ExitStack() as stack:
        servers = [
            stack.enter_context(FairlogServer(database_url, settings=LIMITS)) for _ in range(2)
        ]
        client = servers[0].client
        for user in range(users):
            client.put(f"/v1/limits/user-{user}", json={"running": 2}).raise_for_status()
        client.put("/v1/kinds/b", json={"running": 5}).raise_for_status()
        submit_each(client, users, jobs, "ab")

        async def drive() -> None:
            done = asyncio.Event()
            working = asyncio.create_task(
                work_until(done, [server.url for server in servers], 20, handlers)
            )
            await asyncio.to_thread(wait_until_done, servers[0], users * jobs)
            done.set()
            await working

        asyncio.run(drive())
        recorded = log_at(database_url)
    by_user, by_kind = (
        running_at_most(recorded, "user_id"),
        running_at_most(
            [one for one in recorded if getattr(one.event, "kind", None) == "b"], "kind"
        ),
    )
    print(f"running at once: {by_user} of a user, {by_kind} of the capped kind")
    assert by_user == 2
    assert by_kind == 5
    referee = Referee(POLICY)
    referee.see_all(recorded)
    assert referee.states() == {"done": users * jobs}
