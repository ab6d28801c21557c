"""A job that kills its worker, and what becomes of those beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from domain.language.events import (
    AttemptEnded,
    JobCompleted,
    JobFailed,
    JobRequeued,
    JobStarted,
    Recorded,
)
from domain.language.policy import Policy
from tests.support.referee import Referee
from tests.support.server import FairlogServer, submit
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, log_at

pytestmark = pytest.mark.one_database  # what handlers do is the same on each

HANDLERS = """
import os
import signal
import time

def poison(payload):
    os.kill(os.getppid(), signal.SIGKILL)  # the worker, not only the process for handlers
    time.sleep(60)

def work(payload):
    time.sleep(payload)
    return "worked"
"""
LEASE_SECONDS = 2
SETTINGS: Any = {"user_limit": 100_000, "global_limit": 1_000_000, "lease_seconds": LEASE_SECONDS}


@pytest.mark.timeout(240)
# Prefetching is the worker's, so each database has one of the two.
@pytest.mark.parametrize(
    ("backend", "prefetch"), [("sqlite", "0"), ("mariadb", "4")], indirect=["backend"]
)
def test_a_job_that_kills_its_worker_fails_alone_and_takes_no_attempt_of_its_neighbours(
    database_url: str, tmp_path: Path, prefetch: str
) -> None:
    path = tmp_path / "poisonous_jobs.py"
    path.write_text(HANDLERS)
    options = ("--handlers", str(path), "--concurrency", "3", "--prefetch", prefetch)
    with FairlogServer(database_url, settings=SETTINGS) as server:
        client = server.client
        neighbours = [
            submit(client, user_id=f"user-{n}", kind="work", payload=1.0 + n / 100, max_attempts=1)
            for n in range(5)
        ]
        poison = submit(client, user_id="eve", kind="poison", max_attempts=2)
        jobs = [*neighbours, poison]

        def views() -> list[dict[str, object]]:
            return [client.get(f"/v1/jobs/{job['id']}").json() for job in jobs]

        def have_ended() -> bool:
            return all(view["finished_at"] for view in views())

        with WorkerProcess(server.url, *options) as worker:
            while not have_ended():
                wait_until(lambda: worker.has_died or have_ended(), "it died, or all ended", 60)
                if worker.has_died:
                    worker.start()
        *others, last = views()
        assert {(view["state"], view["failures"]) for view in others} == {("done", 0)}
        assert (last["state"], last["failures"]) == ("failed", 2)
    recorded = log_at(database_url)
    assert_nothing_ran_beside_a_suspect(recorded)
    referee = Referee(Policy(**SETTINGS))
    referee.see_all(recorded)


def assert_nothing_ran_beside_a_suspect(recorded: Sequence[Recorded]) -> None:
    """Check that its worker had no other job between the beginning and the end of its handler."""
    held: dict[str, set[int]] = {}
    of_job: dict[int, str] = {}
    alone: set[int] = set()
    begun: set[int] = set()
    for one in recorded:
        job_id, event = one.job_id or 0, one.event
        if isinstance(event, JobStarted):
            assert not begun & held.get(event.worker, set()), "claimed beside a suspect"
            held.setdefault(event.worker, set()).add(job_id)
            of_job[job_id] = event.worker
            if event.alone:
                alone.add(job_id)
        elif type(event).__name__ == "AttemptBegun" and job_id in alone:
            assert held[of_job[job_id]] == {job_id}
            begun.add(job_id)
        elif isinstance(event, JobCompleted | JobFailed | JobRequeued | AttemptEnded):
            held.get(of_job.get(job_id, ""), set()).discard(job_id)
            alone.discard(job_id)
            begun.discard(job_id)
    assert any(isinstance(one.event, JobStarted) and one.event.alone for one in recorded)
