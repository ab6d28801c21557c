"""Building everything again while the service works at full speed."""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx
import pytest
import sqlalchemy as sa

from adapters.database.database import Database
from domain.decisions.answers import LimitsSet
from domain.language.commands import ChangeLimit
from domain.language.events import Scope
from projections.following.merkle import MerkleProjection
from projections.following.snapshots import SnapshotsProjection
from projections.inline.jobs import JobsProjection
from projections.inline.line import LineProjection
from projections.inline.windows import WindowsProjection
from projections.storage.registry import read
from tests.support.clock import ManualClock
from tests.support.core import do, service
from tests.support.crowd import crowd
from tests.support.server import FairlogServer, ending_with_us, without_settings

FAIRLOG: Final = Path(sys.executable).with_name("fairlog")
EVENTS_BEFORE: Final = 4_000
MANY: Final = 1_000_000_000
KILLED_AT: Final = (0.3, 0.45, 0.6, 0.75, 0.9)  # of the time that the rebuild before took
SUBMITTERS: Final = 2
WORKERS: Final = 1
JOBS_PER_REQUEST: Final = 10
JOBS_AT_FULL_SPEED: Final = 2_000  # then slower, or the log outgrows what a busy machine can fold
SLOWER_SECONDS: Final = 0.2  # between two requests of a submitter
COMMAND_SECONDS_MAX: Final = 250.0
# A busy machine makes twenty seconds of these into minutes: some twenty processes are started.
pytestmark = pytest.mark.timeout(400)

PROJECTIONS: Final = (
    JobsProjection,
    WindowsProjection,
    LineProjection,
    MerkleProjection,
    SnapshotsProjection,
)


class Load:
    """Clients that submit, claim and complete as fast as they can, and look at what they wrote."""

    def __init__(self, url: str) -> None:
        self.requests = 0
        self.submitted = 0  # jobs
        self.wrong: list[str] = []
        self._url = url
        self._stop = threading.Event()
        clients = [self._submit] * SUBMITTERS + [self._work] * WORKERS
        self._threads = [
            threading.Thread(target=self._run, args=(client, number))
            for number, client in enumerate(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: Callable[[httpx.Client, int], None], number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while not self._stop.is_set():
                try:
                    client(http, number)
                except Exception as error:  # noqa: BLE001 (each is a failure of the test)
                    self.wrong.append(repr(error))
                    return

    def _ask(self, http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
        answer = http.request(method, path, json=body)
        self.requests += 1
        if not answer.is_success:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def _submit(self, http: httpx.Client, number: int) -> None:
        if self.submitted >= JOBS_AT_FULL_SPEED:
            self._stop.wait(SLOWER_SECONDS)
        self.submitted += JOBS_PER_REQUEST
        user = f"client-{number}"
        batch = [
            {"user_id": user, "payload": random.random(), "kind": "echo"}
            for _ in range(JOBS_PER_REQUEST)
        ]
        outcomes = self._ask(http, "POST", "/v1/jobs/batch", {"jobs": batch})["jobs"]
        for outcome in random.sample(outcomes, 2):
            job = outcome["job"]
            found = self._ask(http, "GET", f"/v1/jobs/{job['id']}")
            if (found.get("payload"), found.get("user_id")) != (job["payload"], user):
                self.wrong.append(f"submitted {job}, read {found}")
        newest = self._ask(http, "GET", f"/v1/jobs?user_id={user}&limit=1")["jobs"]
        if newest[0]["id"] < outcomes[-1]["job"]["id"]:
            self.wrong.append(f"the newest job of {user} is {newest[0]['id']}")

    def _work(self, http: httpx.Client, number: int) -> None:
        worker = f"worker-{number}"
        claim = {"worker": worker, "max": JOBS_PER_REQUEST, "wait_seconds": 1}
        jobs = self._ask(http, "POST", "/v1/claims", claim)["jobs"]
        self._expect(http, jobs, "running")
        done = [{"id": job["id"], "attempt": job["attempt"], "result": 1} for job in jobs]
        self._ask(http, "POST", "/v1/claims/complete", {"worker": worker, "jobs": done})
        self._expect(http, jobs, "done")

    def _expect(self, http: httpx.Client, jobs: list[Any], state: str) -> None:
        for job in jobs[:2]:
            found = self._ask(http, "GET", f"/v1/jobs/{job['id']}")["state"]
            if found != state:
                self.wrong.append(f"job {job['id']} is {found}, not {state}")


@pytest.fixture
def server(database_url: str) -> Iterator[FairlogServer]:
    """A service at work on a log that takes a while to fold."""
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        crowd(fairlog, clock, EVENTS_BEFORE)
        do(fairlog, ChangeLimit(scope=Scope.GLOBAL, limit=None), LimitsSet)  # as it may have set
    limits = {"user_limit": MANY, "global_limit": MANY}
    with FairlogServer(database_url, settings=limits) as running:
        yield running


def rebuild(database_url: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*ending_with_us(), str(FAIRLOG), "rebuild"],
        env=without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=COMMAND_SECONDS_MAX)
    assert process.returncode == 0, errors
    return output


def assert_clean(database_url: str) -> None:
    done = subprocess.run(
        [str(FAIRLOG), "verify"],
        env=without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def generations(database_url: str) -> dict[str, set[int]]:
    """Return the generations that have rows, by projection."""
    database = Database(database_url)
    try:
        with database.read() as connection:
            return {
                projection.name: {
                    number
                    for table in projection.tables
                    for number in connection.execute(
                        sa.select(table.c.generation).distinct()
                    ).scalars()
                }
                for projection in PROJECTIONS
            }
    finally:
        database.close()


def current(database_url: str) -> dict[str, set[int]]:
    database = Database(database_url)
    try:
        with database.read() as connection:
            return {name: {one.generation} for name, one in read(connection).items()}
    finally:
        database.close()


def assert_nothing_is_left(database_url: str) -> None:
    found, wanted = generations(database_url), current(database_url)
    assert {name: numbers - wanted[name] for name, numbers in found.items()} == {
        name: set() for name in found
    }


@contextmanager
def working(server: FairlogServer) -> Iterator[Load]:
    with Load(server.url) as load:
        yield load
    assert load.wrong == []
    assert load.requests > 50


def test_three_rebuilds_one_after_another_are_not_noticed(
    server: FairlogServer, database_url: str
) -> None:
    before = current(database_url)
    with working(server):
        for _ in range(3):
            assert "Rebuilt all projections" in finished(rebuild(database_url))
    server.terminate()
    after = current(database_url)
    assert all(min(after[name]) >= min(before[name]) + 3 for name in before)
    assert_nothing_is_left(database_url)
    assert_clean(database_url)


def test_a_rebuild_that_is_killed_at_any_moment_harms_nobody(
    server: FairlogServer, database_url: str
) -> None:
    with working(server):
        started = time.monotonic()
        finished(rebuild(database_url))
        seconds = time.monotonic() - started
        for share in KILLED_AT:
            process = rebuild(database_url)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=share * seconds)
            process.kill()
            process.communicate()
        finished(rebuild(database_url))
    server.terminate()
    assert_nothing_is_left(database_url)
    assert_clean(database_url)


def test_two_rebuilds_at_once_do_not_harm_each_other(
    server: FairlogServer, database_url: str
) -> None:
    with working(server):
        for process in [rebuild(database_url), rebuild(database_url)]:
            finished(process)
        finished(rebuild(database_url))
    server.terminate()
    assert_nothing_is_left(database_url)
    assert_clean(database_url)
