"""Clients of a cluster's servers: they submit, work and read, and keep what they were answered."""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import httpx

SUBMITTERS: Final = 4
WORKERS: Final = 8
JOBS_PER_REQUEST: Final = 10
USERS: Final = [f"user-{number}" for number in range(20)]
LIMITED: Final = "limited"  # a user with a small limit
# An answer that does not say what has happened.
UNCLEAR: Final = frozenset({408, 429, 500, 502, 503, 504})


class Load:
    """Clients that ask until they have a clear answer, and keep it."""

    def __init__(self, urls: list[str], seed: int, *, reads: bool = False) -> None:
        """`reads`: each server is asked for jobs that the others have taken."""
        self.submitted: dict[str, int] = {}  # job, by its key
        self.seen: Counter[str] = Counter()  # reads of jobs that other servers took, by server
        self.unseen: list[str] = []  # what was wrong with other reads
        self._taken: deque[tuple[int, str]] = deque(maxlen=50)  # latest jobs, with the server
        self.outcomes: dict[tuple[int, int], str] = {}  # acknowledged, by job and attempt
        self.statuses: Counter[int] = Counter()  # of requests
        self.entries: Counter[int] = Counter()  # of the submissions in them
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
                    jobs = self._submit_once(client, url, jobs)

    def _submit_once(
        self, client: httpx.Client, url: str, jobs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Submit, and return what has no clear answer."""
        answer = self._ask(client, "/v1/jobs/batch", {"jobs": jobs})
        if answer is None or not answer.is_success:
            self._stopping.wait(0.2)
            return jobs
        left = []
        with self._guard:
            for job, outcome in zip(jobs, answer.json()["jobs"], strict=True):
                self.entries[outcome["status"]] += 1
                if "job" in outcome:
                    job_id = outcome["job"]["id"]
                    self.submitted[job["idempotency_key"]] = job_id
                    self._taken.append((job_id, url))
                    now = time.monotonic()
                    self.longest_gap = max(self.longest_gap, now - self._latest)
                    self._latest = now
                elif outcome["status"] != 429 and outcome["status"] in UNCLEAR:
                    left.append(job)
        if left:
            self._stopping.wait(0.2)
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
                    jobs = [job for job, taken_by in self._taken if taken_by != url]
                if jobs:
                    self._read_once(client, url, chance.choice(jobs))

    def _read_once(self, client: httpx.Client, url: str, job: int) -> None:
        """Read a job. It may be refused for now, but has to be known."""
        while not self._stopping.is_set():
            try:
                answer = client.get(f"/v1/jobs/{job}")
            except httpx.TransportError as error:
                self.unseen.append(f"job {job}: {error}")
                return
            if answer.is_success:
                with self._guard:
                    self.seen[url] += 1
                return
            if answer.status_code not in UNCLEAR:
                self.unseen.append(f"job {job}: {answer.text}")
                return
            self._stopping.wait(0.2)

    def _ask(self, client: httpx.Client, path: str, body: object) -> httpx.Response | None:
        with suppress(httpx.TransportError):
            answer = client.post(path, json=body)
            with self._guard:
                self.statuses[answer.status_code] += 1
            return answer
        return None
