"""One `fairlog worker` beside one server, and a line of jobs whose handler does nothing.

The jobs are submitted first. The time is the log's, from the first start to the last completion in
its events: claims, hand-over to the handler, and reports of outcomes are in it. The limit is
`lifecycle` without submissions: what a client that only claims and completes in batches gets.
"""

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from tests.benchmarks.figures import Figure, Limit
from tests.benchmarks.lifecycle import submit_batches, work_batches
from tests.benchmarks.serving import BenchmarkServer
from tests.benchmarks.site import Site
from tests.support.server import audit
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

CONCURRENCY: Final = 64
SECONDS_MAX: Final = 120.0  # usual: 10
POLL_SECONDS: Final = 0.25  # each poll costs the server and the database as much as some batches
_HANDLERS: Final = """
async def echo(payload):
    return None
"""


def run(site: Site) -> Iterator[Figure]:
    jobs = 1_000 if site.quick else 10_000
    url = site.new_database("mariadb")
    with TemporaryDirectory() as folder, site.server(url) as server:
        handlers = Path(folder) / "nothing.py"
        handlers.write_text(_HANDLERS)
        _drained(server, handlers, jobs // 5)  # warms up
        by_client, by_worker = [], []
        for _ in range(site.rounds):
            by_worker.append(_drained(server, handlers, jobs))
            by_client.append(_worked(server, jobs))
    site.drop_database("mariadb", url)
    yield Figure(
        f"MariaDB, fairlog worker, {CONCURRENCY} slots",
        median(by_worker),
        "jobs/s",
        Limit(median(by_client), "claims and completions in batches"),
    )


def _drained(server: BenchmarkServer, handlers: Path, jobs: int) -> float:
    submit_batches([server.port], jobs)
    all_done = _done(server) + jobs

    def are_done() -> bool:
        time.sleep(POLL_SECONDS)
        return _done(server) == all_done

    options = ["--handlers", str(handlers), "--concurrency", str(CONCURRENCY)]
    with WorkerProcess(server.url, *options):
        wait_until(are_done, "all jobs are done", SECONDS_MAX)
    started, completed = (
        [datetime.fromisoformat(one["recorded_at"]) for one in audit(server.client, type=name)]
        for name in ("JobStarted", "JobCompleted")
    )
    return jobs / (completed[-1] - started[-jobs]).total_seconds()


def _worked(server: BenchmarkServer, jobs: int) -> float:
    submit_batches([server.port], jobs)
    span = work_batches([server.port], jobs)
    return jobs / (span.ended - span.started)


def _done(server: BenchmarkServer) -> int:
    return int(server.stats()["jobs"]["done"])
