"""Clients of a cluster's servers: they submit, work and read, and keep what they were answered."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import httpx

SUBMITTERS: Final = 4
WORKERS: Final = 8
JOBS_PER_REQUEST: Final = 10
USERS: Final = [f"user-{number}" for number in range(20)]
LIMITED: Final = "limited"  # a user with a small limit
SEEN_SECONDS_MAX: Final = 5.0  # until a job that was answered is seen by all servers
# An answer that does not say what has happened.
UNCLEAR: Final = frozenset({408, 429, 500, 502, 503, 504})


class Load:
    """Clients that ask until they have a clear answer, and keep it."""

    def __init__(self, urls: list[str], seed: int, *, reads: bool = False) -> None:
        """`reads`: each server is asked for the jobs that all servers have answered."""
        self.submitted: dict[str, int] = {}  # job, by its key
        self.unseen: list[str] = []  # what another server answered for a job that was submitted
        self.seen = 0  # jobs that another server was asked for
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
            for target, count in (
                (self._submit, SUBMITTERS),
                (self._work, WORKERS),
                (self._read, len(urls) if reads else 0),
            )
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

    def _read(self, url: str, _: int, chance: random.Random) -> None:
        with httpx.Client(base_url=url, timeout=15) as client:
            while not self._stopping.wait(0.02):
                with self._guard:
                    jobs = list(self.submitted.values())[-50:]
                if jobs:
                    self._read_until_seen(client, chance.choice(jobs))

    def _read_until_seen(self, client: httpx.Client, job: int) -> None:
        deadline = time.monotonic() + SEEN_SECONDS_MAX
        while not (answer := client.get(f"/v1/jobs/{job}")).is_success:
            if time.monotonic() > deadline:
                self.unseen.append(f"job {job}: {answer.text}")
                return
            time.sleep(0.02)
        with self._guard:
            self.seen += 1

    def _ask(self, client: httpx.Client, path: str, body: object) -> httpx.Response | None:
        with suppress(httpx.TransportError):
            answer = client.post(path, json=body)
            with self._guard:
                self.statuses[answer.status_code] += 1
            return answer
        return None
