"""`python -m tests.cluster [PART…] [--losses N] [--seed N]`. Exit code 1 if anything is wrong."""

import argparse
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import httpx

from tests.cluster.agreement import disagreements
from tests.cluster.load import LIMITED, Load
from tests.cluster.losses import Losses
from tests.support.galera import NODES, Cluster, Node
from tests.support.repository import ROOT
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until

WINDOW_SECONDS: Final = 10
SETTINGS: Final = {
    "user_limit": 1_000_000,
    "global_limit": 1_000_000,
    "window_seconds": WINDOW_SECONDS,
    "lease_seconds": 60,
}
LIMIT: Final = 25  # of the user LIMITED, in a window
TOGETHER_SECONDS: Final = 60.0  # for which a server on each node is at work
CALM_SECONDS: Final = 3.0  # between two losses


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    # The empty list stands for no word at all, which argparse holds against the choices too.
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, []], metavar="PART")
    parser.add_argument("--losses", type=int, default=51, help="1 or more (51)")
    parser.add_argument("--seed", type=int, default=None, help="draws the losses and the load")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    is_wrong = False
    for name in given.parts or _PARTS:
        print(f"{name}: seed {seed}", flush=True)
        with Cluster() as cluster:
            found = _PARTS[name](cluster, max(given.losses, 1), seed)
        for sentence in found:
            print("WRONG:", sentence)
        print(f"{name}: all agree" if not found else f"{name}: {len(found)} disagree", flush=True)
        is_wrong |= bool(found)
    return 1 if is_wrong else 0


def _contract(cluster: Cluster, *_: int) -> list[str]:
    """Run the tests of the database on one node, those that start a server of their own apart."""
    node = cluster.nodes[0]
    url = f"mysql+pymysql://admin:admin@127.0.0.1:{node.port}/"
    options = ("-p", "tests.cluster.on_the_node", "-m", "database", "-n", "2", "-q")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/integration", "tests/e2e"],
        cwd=ROOT,
        env=os.environ | {"FAIRLOG_TEST_DATABASE_URL": url},
        check=False,
    )
    return [f"pytest ended with {ended.returncode}"] if ended.returncode else []


def _servers(cluster: Cluster, _: int, seed: int) -> list[str]:
    """Let a server on each node be at work at once. A node answers a read once it has what was
    committed anywhere before.
    """
    for node in cluster.nodes:
        node.wait_for_others()
    urls = [
        cluster.url(*((number + offset) % NODES for offset in range(NODES)))
        for number in range(NODES)
    ]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(FairlogServer(url, settings=SETTINGS, server_id=f"s{number}"))
            for number, url in enumerate(urls)
        ]
        answer = servers[0].client.put(f"/v1/limits/{LIMITED}", json={"limit": LIMIT})
        answer.raise_for_status()
        load = Load([server.url for server in servers], seed, reads=True)
        written = [_written(cluster, server).number for server in servers]
        with load.running():
            time.sleep(TOGETHER_SECONDS)
            longest_pause = load.gap()
            load.is_submitting = False
            wait_until(lambda: _is_drained(servers[0]), "all jobs have ended", 300)
        written += [_written(cluster, server).number for server in servers]
        for server in servers:
            server.terminate()
    _print_answers(load)
    print(f"reads of jobs that other servers took: {load.seen.total()}")
    print(f"longest pause: {longest_pause:.1f} s")
    found = []
    if written != [*range(NODES)] * 2:
        found.append(f"a server left its node: {written}")
    if len(load.seen) < NODES:
        found.append(f"a server was not asked for the jobs of others: {dict(load.seen)}")
    if load.unseen:
        found.append(f"{len(load.unseen)} reads were wrong: {load.unseen[:3]}")
    return found + _disagreements(cluster, load)


def _losses(cluster: Cluster, losses: int, seed: int) -> list[str]:
    """Lose nodes, of which the servers write to one."""
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
    _print_answers(load)
    print(f"longest pause: {max(gaps):.1f} s, median {sorted(gaps)[len(gaps) // 2]:.1f} s")
    return _disagreements(cluster, load)


_PARTS: Final[dict[str, Callable[[Cluster, int, int], list[str]]]] = {
    "contract": _contract,
    "servers": _servers,
    "losses": _losses,
}


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


def _print_answers(load: Load) -> None:
    print(f"answers: {dict(load.statuses)}, of submissions: {dict(load.entries)}")


def _disagreements(cluster: Cluster, load: Load) -> list[str]:
    return disagreements(cluster, load, limit=LIMIT, window_seconds=WINDOW_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
