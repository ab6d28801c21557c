"""`make bench-peers`, or `python -m tests.benchmarks.peers [NAME…] [--rounds N] [--quick]`.

One client process submits jobs that do nothing, another works, at the same time; the clock runs
from the first request to the last outcome that is written. Fairlog does its `lifecycle` in batches,
over HTTP; the others what their documentation recommends for many jobs. All take turns, and the
figures are medians.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

from tests.benchmarks.figures import number
from tests.benchmarks.lifecycle import JOBS_PER_BATCH, jobs_per_second, submit_batches, work_batches
from tests.benchmarks.machine import machine, today, versions
from tests.benchmarks.peers.servers import PeerServer, Postgres, Redis
from tests.benchmarks.report import aligned
from tests.benchmarks.site import Site

CONCURRENCY: Final = 64  # of a peer's worker, where it has jobs singly
JOBS: Final = 12_000
RUN_SECONDS_MAX: Final = 180.0

_HERE: Final = Path(__file__).parent
_PYTHON: Final = Path(__file__).parents[3] / ".peers" / "bin" / "python"


class Peer(Struct, frozen=True):
    """A queue and its program: `prepare|submit|work URL JOBS JOBS_PER_BATCH CONCURRENCY`."""

    name: str
    package: str
    program: str
    server: type[PeerServer]
    settings: str
    jobs: int = JOBS  # fewer for a slow one


PEERS: Final = (
    Peer(
        "graphile-worker",
        "graphile-worker",
        "node/graphile_worker.mjs",
        Postgres,
        "local queue, completions in batches",
    ),
    Peer("PgQueuer", "pgqueuer", "python/pgqueuer_peer.py", Postgres, "batches"),
    Peer("BullMQ", "bullmq", "node/bullmq.mjs", Redis, "addBulk"),
    Peer("Procrastinate", "procrastinate", "python/procrastinate_peer.py", Postgres, "", 1_000),
    Peer("Dramatiq", "dramatiq", "python/dramatiq_peer.py", Redis, "one message a call", 6_000),
)


def main() -> int:
    arguments = _arguments()
    peers = [one for one in PEERS if not arguments.names or one.name in arguments.names]
    scale = 6 if arguments.quick else 1
    with Site(quick=arguments.quick) as site, ExitStack() as stack:
        servers = {kind: stack.enter_context(kind()) for kind in {one.server for one in peers}}
        fairlog = stack.enter_context(_fairlog(site, JOBS // scale))
        measures: dict[str, Callable[[], float]] = {"Fairlog": fairlog}
        for peer in peers:
            measures[peer.name] = _measure(peer, servers[peer.server], peer.jobs // scale)
        rates: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(1 if arguments.quick else arguments.rounds):
            for name, measure in measures.items():
                rates[name].append(measure())
                print(f"  {name}: {number(rates[name][-1])} jobs/s", flush=True)
        medians = {name: median(found) for name, found in rates.items()}
        settings = {one.name: _circumstances(one, servers[one.server]) for one in peers}
        settings["Fairlog"] = (
            f"batches of {JOBS_PER_BATCH} over HTTP; {versions([site.mariadb])[1]}"
        )
        print(f"\n{aligned(_table(medians, settings))}\n\n{machine()}, {today()}")
    return 0


@contextmanager
def _fairlog(site: Site, jobs: int) -> Iterator[Callable[[], float]]:
    with ProcessPoolExecutor(2, get_context("spawn")) as clients:
        url = site.new_database("mariadb")
        with site.server(url) as server:
            sides = (submit_batches, work_batches)
            jobs_per_second(clients, [server], jobs // 5, sides)  # warms up
            yield lambda: jobs_per_second(clients, [server], jobs, sides)


def _measure(peer: Peer, server: PeerServer, jobs: int) -> Callable[[], float]:
    command = [
        "node" if peer.program.endswith(".mjs") else str(_PYTHON),
        str(_HERE / peer.program),
    ]
    arguments = [server.url, str(jobs), str(JOBS_PER_BATCH), str(CONCURRENCY)]

    def start(role: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([*command, role, *arguments], stdout=subprocess.PIPE, text=True)

    def measure() -> float:
        working, submitting = start("work"), start("submit")
        spans = [_span(one) for one in (submitting, working)]
        return jobs / (max(end for _, end in spans) - spans[0][0])

    _span(start("prepare"))
    return measure


def _span(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Return when the program began and ended its work; Unix time, seconds."""
    try:
        output, _ = process.communicate(timeout=RUN_SECONDS_MAX)
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError(f"a peer's program ended with {process.returncode}")
    span: dict[str, float] = json.loads(output.splitlines()[-1])
    return span["started"] / 1000, span["ended"] / 1000


def _circumstances(peer: Peer, server: PeerServer) -> str:
    parts = [f"{type(server).__name__} {server.version}, {server.settings}", peer.settings]
    return "; ".join([f"{peer.package} {_version(peer)}", *filter(None, parts)])


def _version(peer: Peer) -> str:
    if peer.program.endswith(".mjs"):
        package = _HERE / "node" / "node_modules" / peer.package / "package.json"
        return str(json.loads(package.read_text())["version"])
    asked = f"from importlib.metadata import version; print(version({peer.package!r}))"
    return subprocess.run(
        [str(_PYTHON), "-c", asked], check=True, capture_output=True, text=True
    ).stdout.strip()


def _table(medians: dict[str, float], settings: dict[str, str]) -> Sequence[tuple[str, ...]]:
    ours = medians["Fairlog"]
    ordered = sorted(medians, key=lambda name: -medians[name])
    return [
        ("system", "jobs/s", "beside Fairlog", "with"),
        *(
            (name, number(medians[name]), f"{medians[name] / ours:.2f}", settings[name])
            for name in ordered
        ),
    ]


class _Arguments(argparse.Namespace):
    names: Sequence[str]
    rounds: int
    quick: bool


def _arguments() -> _Arguments:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers")
    names = [one.name for one in PEERS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=5, help="of runs that take turns")
    parser.add_argument("--quick", action="store_true", help="small and short, to see it work")
    arguments = parser.parse_args(namespace=_Arguments())
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no peer is called {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
