"""Issue 5, 5: servers and workers restarted in turn by SIGTERM while others submit and work."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest

from domain.language.events import JobCompleted, JobRequeued
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, log_at

SETTINGS = {"user_limit": 100_000, "global_limit": 1_000_000, "lease_seconds": 60}
HANDLERS = """
import asyncio

async def work(payload):
    await asyncio.sleep(0.05)
"""


class Submitter:
    """Submits without end, one job after the other, to whichever server answers."""

    def __init__(self, name: str, urls: Sequence[str]) -> None:
        self.accepted: list[int] = []
        self.answers: Counter[int] = Counter()
        self.unanswered = 0
        self._name = name
        self._urls = itertools.cycle(urls)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=30) as client:
            for number in itertools.count():
                wish = {"user_id": self._name, "kind": "work", "payload": number}
                while not self._stopping.wait(0.01):
                    try:
                        answer = client.post(f"{next(self._urls)}/v1/jobs", json=wish)
                    except httpx.TransportError:  # nobody has accepted it
                        self.unanswered += 1
                        continue
                    self.answers[answer.status_code] += 1
                    if answer.is_success:
                        self.accepted.append(answer.json()["id"])
                        break
                if self._stopping.is_set():
                    return


@pytest.mark.timeout(240)  # 20 s on a machine of its own
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_rolling_restart_fails_no_accepted_request_and_waits_for_no_lease(
    database_url: str, tmp_path: Path
) -> None:
    handlers = tmp_path / "steady_jobs.py"
    handlers.write_text(HANDLERS)
    with ExitStack() as stack:
        settings = {**SETTINGS, "handlers": str(handlers)}
        servers = [
            stack.enter_context(FairlogServer(database_url, workers=2, settings=settings))
            for _ in range(2)
        ]
        options = ["--handlers", str(handlers), "--concurrency", "4", "--prefetch", "4"]
        workers = [stack.enter_context(WorkerProcess(one.url, *options)) for one in servers]
        for worker in workers:
            worker.wait_until_started()
        urls = [server.url for server in servers]
        submitters = [stack.enter_context(Submitter(f"user-{number}", urls)) for number in range(3)]

        def wait_for_more() -> None:
            before = [len(one.accepted) for one in submitters]
            wait_until(
                lambda: all(
                    len(one.accepted) > count + 10
                    for one, count in zip(submitters, before, strict=True)
                ),
                "all go on submitting",
            )

        for server, worker in zip(servers, workers, strict=True):
            wait_for_more()
            server.restart()
            wait_for_more()
            worker.terminate()
            worker.start()
            worker.wait_until_started(times=2)
        wait_for_more()
        for submitter in submitters:
            submitter.stop()
        accepted = [job for submitter in submitters for job in submitter.accepted]

        def all_are_done() -> bool:
            jobs = servers[0].client.get("/v1/stats").json()["jobs"]
            return bool(jobs["done"] == sum(jobs.values()))

        wait_until(all_are_done, "all are done", 40)
        outputs = "".join([*(one.output for one in servers), *(one.output for one in workers)])
        recorded = log_at(database_url)
    answers = sum((one.answers for one in submitters), Counter[int]())
    completed = {one.job_id for one in recorded if isinstance(one.event, JobCompleted)}
    requeued = Counter(
        one.event.reason.value for one in recorded if isinstance(one.event, JobRequeued)
    )
    print(
        f"{len(accepted)} accepted; answers {dict(answers)}, "
        f"{sum(one.unanswered for one in submitters)} found no server; "
        f"queued again {dict(requeued)}"
    )
    assert completed >= set(accepted)
    assert set(answers) <= {200, 202}
    assert set(requeued) <= {"given_back"}
    assert "Traceback" not in outputs, outputs
