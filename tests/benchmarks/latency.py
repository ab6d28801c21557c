"""The time from submission to start on an idle system: one job at a time, with one server and one
`fairlog worker` that waits on the same machine.

The clock runs from the moment the request is sent to the moment the handler begins, by the
machine's monotonic clock, which all processes share: two commits, the answer to the waiting claim
and the worker's own way to the handler are in it. The time between the two events in the log is
given beside it.
"""

import random
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.benchmarks.figures import Figure, Target, at_most
from tests.benchmarks.serving import BenchmarkServer
from tests.benchmarks.site import Site
from tests.support.server import audit, submit
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

P50_MS_MAX: Final = 15.0
P99_MS_MAX: Final = 60.0
_QUIET_SECONDS: Final = 0.08  # without a request of ours, while the job is on its way
_HANDLERS: Final = """
import time

async def stamp(payload):
    return time.monotonic_ns()
"""


def run(site: Site) -> Iterator[Figure]:
    jobs = 50 if site.quick else 500
    url = site.new_database("mariadb")
    with TemporaryDirectory() as folder, site.server(url) as server:
        handlers = Path(folder) / "stamps.py"
        handlers.write_text(_HANDLERS)
        with WorkerProcess(server.url, "--handlers", str(handlers)) as worker:
            worker.wait_until_started()
            _ran(server, 10)  # warms up
            to_handler = _ran(server, jobs)
        in_log = _between_events(audit(server.client))[-jobs:]
    site.drop_database("mariadb", url)
    yield from _figures("to the handler's first line", to_handler, P50_MS_MAX, P99_MS_MAX)
    yield from _figures("from event to event", in_log)


def _ran(server: BenchmarkServer, jobs: int) -> list[float]:
    """Milliseconds of each, in order."""
    found = []
    for number in range(jobs):
        time.sleep(random.uniform(0.0, 0.03))  # no rhythm of ours
        sent = time.monotonic_ns()
        job = submit(server.client, kind="stamp", payload=[sent, number])["id"]
        ended: dict[str, Any] = {}

        def is_done(job: int = job, ended: dict[str, Any] = ended) -> bool:
            ended.update(server.client.get(f"/v1/jobs/{job}").json())
            return bool(ended["state"] == "done")

        time.sleep(_QUIET_SECONDS)
        wait_until(is_done, "the job is done")
        found.append((ended["result"] - sent) / 1e6)
    return found


def _between_events(events: Sequence[dict[str, Any]]) -> list[float]:
    submitted = {
        one["job_id"]: datetime.fromisoformat(one["recorded_at"])
        for one in events
        if one["type"] == "JobSubmitted"
    }
    waited = [
        datetime.fromisoformat(one["recorded_at"]) - submitted[one["job_id"]]
        for one in events
        if one["type"] == "JobStarted"
    ]
    return [one.total_seconds() * 1e3 for one in waited]


def _figures(
    name: str,
    milliseconds: Sequence[float],
    p50_max: float | None = None,
    p99_max: float | None = None,
) -> Iterator[Figure]:
    percentiles = quantiles(milliseconds, n=100)
    yield Figure(f"MariaDB, {name}, p50", percentiles[49], "ms", None, _target(p50_max))
    yield Figure(f"MariaDB, {name}, p99", percentiles[98], "ms", None, _target(p99_max))


def _target(most: float | None) -> Target | None:
    return None if most is None else at_most(most)
