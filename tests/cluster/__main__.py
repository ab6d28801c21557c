"""Run the losses; say what the nodes and the answers do not agree on. Exit code 1 if anything."""

import argparse
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.galera import NAME, NODES, Cluster, Node
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until

SUBMITTERS: Final = 4
WORKERS: Final = 8
JOBS_PER_REQUEST: Final = 10
USERS: Final = [f"user-{number}" for number in range(20)]
LIMITED: Final = "limited"  # a user with a small limit
SETTINGS: Final = {
    "user_limit": 1_000_000,
    "global_limit": 1_000_000,
    "window_seconds": 10,
    "lease_seconds": 60,
}
LIMIT: Final = 25  # of that user, in a window
# From a loss until the node is brought back: the others take some 6 s to go on without it.
GONE_SECONDS: Final = (8.0, 14.0)
CALM_SECONDS: Final = 3.0  # between two losses
WRITER_SHARE: Final = 0.5  # of losses that are of the node that is written
# An answer that does not say what has happened.
UNCLEAR: Final = frozenset({408, 429, 500, 502, 503, 504})


class Load:
    """Clients that ask until they have a clear answer, and keep it."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self.submitted: dict[str, int] = {}  # job, by its key
        self.outcomes: dict[tuple[int, int], str] = {}  # acknowledged, by job and attempt
        self.statuses: Counter[int] = Counter()
        self.longest_gap = 0.0  # seconds between two submissions that were answered
        self.is_submitting = True
        self._latest = time.monotonic()
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=target, args=(urls[number % len(urls)], number, random.Random(seed + number))
            )
            for target, count in ((self._submit, SUBMITTERS), (self._work, WORKERS))
            for number in range(count)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def gap(self) -> float:
        """Return the longest gap since the last call."""
        with self._guard:
            found, self.longest_gap = self.longest_gap, 0.0
        return max(found, time.monotonic() - self._latest)

    def _submit(self, url: str, number: int, chance: random.Random) -> None:
        with httpx.Client(base_url=url, timeout=15) as client:
            sent = 0
            while not self._stopping.is_set():
                if not self.is_submitting:
                    self._stopping.wait(0.1)
                    continue
                jobs = []
                for _ in range(JOBS_PER_REQUEST):
                    sent += 1
                    user = LIMITED if chance.random() < 0.2 else chance.choice(USERS)
                    key = f"{number}-{sent}"
                    jobs.append(
                        {"user_id": user, "kind": "k", "payload": sent, "idempotency_key": key}
                    )
                while jobs and not self._stopping.is_set():
                    jobs = self._submit_once(client, jobs)

    def _submit_once(
        self, client: httpx.Client, jobs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Submit, and return what has no clear answer."""
        answer = self._ask(client, "/v1/jobs/batch", {"jobs": jobs})
        if answer is None or not answer.is_success:
            self._stopping.wait(0.2)
            return jobs
        left = []
        with self._guard:
            now = time.monotonic()
            self.longest_gap, self._latest = max(self.longest_gap, now - self._latest), now
            for job, outcome in zip(jobs, answer.json()["jobs"], strict=True):
                if "job" in outcome:
                    self.submitted[job["idempotency_key"]] = outcome["job"]["id"]
                elif outcome["status"] != 429 and outcome["status"] in UNCLEAR:
                    left.append(job)
        return left

    def _work(self, url: str, number: int, chance: random.Random) -> None:
        worker = f"worker-{number}"
        claims = 0
        with httpx.Client(base_url=url, timeout=15) as client:
            while not self._stopping.is_set():
                claims += 1
                claim = {"worker": worker, "max": 20, "claim_id": str(claims)}
                while (answer := self._ask(client, "/v1/claims", claim)) is None or (
                    answer.status_code in UNCLEAR
                ):
                    if self._stopping.wait(0.2):
                        return
                done = [
                    {"id": job["id"], "attempt": job["attempt"], "result": chance.random()}
                    for job in answer.json()["jobs"]
                ]
                while done and not self._stopping.is_set():
                    done = self._complete_once(client, worker, done)
                if not answer.json()["jobs"]:
                    self._stopping.wait(0.1)

    def _complete_once(
        self, client: httpx.Client, worker: str, done: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        answer = self._ask(client, "/v1/claims/complete", {"worker": worker, "jobs": done})
        if answer is None or not answer.is_success:
            self._stopping.wait(0.2)
            return done
        left = []
        with self._guard:
            for one, outcome in zip(done, answer.json()["jobs"], strict=True):
                status = outcome.get("status", 200)
                if status == 200:
                    self.outcomes[one["id"], one["attempt"]] = "done"
                elif status in UNCLEAR:
                    left.append(one)
        return left

    def _ask(self, client: httpx.Client, path: str, body: object) -> httpx.Response | None:
        with suppress(httpx.TransportError):
            answer = client.post(path, json=body)
            with self._guard:
                self.statuses[answer.status_code] += 1
            return answer
        return None


class Losses:
    """Loses a node, waits, and brings it back."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._chance = chance
        self._kinds: dict[str, Callable[[Node], Callable[[], None]]] = {
            "killed": self._kill,
            "stopped": self._stop,
            "frozen": self._freeze,
            "cut off": self._isolate,
        }

    def lose(self, written: Node) -> str:
        """Lose a node; return what was done. `written` is the node that the servers write to."""
        others = [node for node in self._cluster.nodes if node is not written]
        is_written = self._chance.random() < WRITER_SHARE
        node = written if is_written else self._chance.choice(others)
        kind = self._chance.choice(list(self._kinds))
        bring_back = self._kinds[kind](node)
        time.sleep(self._chance.uniform(*GONE_SECONDS))
        bring_back()
        self._cluster.wait_until_whole()
        name = f"{kind}, {'the written node' if is_written else 'another node'}"
        self.counts[name] += 1
        return name

    def _kill(self, node: Node) -> Callable[[], None]:
        node.kill()
        return node.start

    def _stop(self, node: Node) -> Callable[[], None]:
        node.stop()
        return node.start

    def _freeze(self, node: Node) -> Callable[[], None]:
        node.pause()
        return node.resume

    def _isolate(self, node: Node) -> Callable[[], None]:
        node.isolate()
        return lambda: node.isolate(is_isolated=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--losses", type=int, default=51)
    parser.add_argument("--seed", type=int, default=None, help="draws the losses and the load")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}, {given.losses} losses", flush=True)
    with Cluster() as cluster:
        found = _run(cluster, given.losses, seed)
    for sentence in found:
        print("WRONG:", sentence)
    print("all agree" if not found else f"{len(found)} kinds of disagreement")
    return 1 if found else 0


def _run(cluster: Cluster, losses: int, seed: int) -> list[str]:
    url = cluster.url()
    with (
        FairlogServer(url, settings=SETTINGS, server_id="a") as one,
        FairlogServer(url, settings=SETTINGS, server_id="b") as other,
    ):
        answer = one.client.put(f"/v1/limits/{LIMITED}", json={"limit": LIMIT})
        answer.raise_for_status()
        load = Load([one.url, other.url], seed)
        losing = Losses(cluster, random.Random(seed))
        with load.running():
            time.sleep(CALM_SECONDS)
            gaps = []
            for _ in range(losses):
                load.gap()
                what = losing.lose(_written(cluster, one))
                time.sleep(CALM_SECONDS)
                gaps.append(load.gap())
                print(f"{what}: {gaps[-1]:.1f} s without an answered submission", flush=True)
            load.is_submitting = False
            wait_until(lambda: _is_drained(one), "all jobs have ended", 300)
        for server in (one, other):
            server.terminate()
    print("losses:", dict(losing.counts))
    print("answers:", dict(load.statuses))
    print(f"longest pause: {max(gaps):.1f} s, median {sorted(gaps)[len(gaps) // 2]:.1f} s")
    return _disagreements(cluster, load)


def _written(cluster: Cluster, server: FairlogServer) -> Node:
    hosts: list[str] = []

    def is_known() -> bool:
        with suppress(httpx.TransportError):
            host = server.client.get("/readyz").json().get("database_host")
            hosts.extend([host] if host else [])
        return bool(hosts)

    wait_until(is_known, "the server names its host")
    return next(node for node in cluster.nodes if hosts[-1].endswith(f":{node.port}"))


def _is_drained(server: FairlogServer) -> bool:
    with suppress(httpx.TransportError):
        answer = server.client.get("/v1/stats")
        if answer.is_success:
            counts = answer.json()["jobs"]
            return not any(counts.get(state, 0) for state in ("queued", "running"))
    return False


def _disagreements(cluster: Cluster, load: Load) -> list[str]:
    found = []
    heads = [_rows(node, "SELECT position, hash FROM log_head")[0] for node in cluster.nodes]
    print(f"events: {heads[0][0]}, jobs answered: {len(load.submitted)}")
    if len(set(heads)) > 1:
        found.append(f"the logs of the nodes differ: {heads}")
    fairlog = Path(sys.executable).with_name("fairlog")
    for number in range(NODES):
        verified = subprocess.run(
            [str(fairlog), "verify", "--database-url", cluster.url(number)],
            capture_output=True,
            text=True,
            check=False,
        )
        if verified.returncode:
            found.append(f"verify on node {number}: {verified.stdout[-2000:]}")
    first = cluster.nodes[0]
    keys = "JSON_VALUE(CONVERT(data USING utf8mb4), '$.idempotency_key')"
    jobs = _rows(first, f"SELECT {keys}, position FROM events WHERE type = 'JobSubmitted'")
    positions = dict(jobs)
    if len(positions) < len(jobs):
        found.append("a key made more than one job")
    lost = [key for key, job in load.submitted.items() if positions.get(key) != job]
    if lost:
        found.append(f"{len(lost)} answered submissions are not in the log: {lost[:5]}")
    attempt = "CAST(JSON_VALUE(CONVERT(data USING utf8mb4), '$.attempt') AS INTEGER)"
    ended = Counter(
        _rows(first, f"SELECT job_id, {attempt} FROM events WHERE type = 'JobCompleted'")
    )
    if twice := [one for one, count in ended.items() if count > 1]:
        found.append(f"{len(twice)} attempts have more than one outcome: {twice[:5]}")
    if gone := [one for one in load.outcomes if one not in ended]:
        found.append(f"{len(gone)} acknowledged outcomes are not in the log: {gone[:5]}")
    window = f"FLOOR(recorded_at / {SETTINGS['window_seconds'] * 1_000_000})"
    most = _rows(
        first,
        f"SELECT COUNT(*) FROM events WHERE type = 'JobSubmitted' AND user_id = '{LIMITED}' "
        f"GROUP BY {window} ORDER BY 1 DESC LIMIT 1",
    )
    print(f"most jobs of the limited user in a window: {most[0][0]} of {LIMIT}")
    if most[0][0] > LIMIT:
        found.append(f"{most[0][0]} jobs were admitted in a window of {LIMIT}")
    return found


def _rows(node: Node, query: str) -> list[tuple[Any, ...]]:
    with node.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {NAME}")
        cursor.execute("SET SESSION wsrep_sync_wait = 1")
        cursor.execute(query)
        return list(cursor.fetchall())


if __name__ == "__main__":
    sys.exit(main())
