"""Clients that submit, claim, report and read without rest, and keep what they were answered.

A request without a clear answer is sent again until it has one, as a careful client does: a
submission with its key, a claim with its claim_id, an outcome as it is.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx

USERS: Final = [f"user-{number}" for number in range(40)]
KINDS: Final = ["soak-a", "soak-b", "soak-c"]
REQUEST_SECONDS_MAX: Final = 15.0
ANSWER_SECONDS_MAX: Final = 8.0  # promised are 5, on a machine with time for it
_REFUSED: Final = "The database refused this command."
_UNCLEAR: Final = frozenset({408, 421, 500, 502, 503, 504})

Attempt = tuple[int, int]  # job, attempt


@dataclass
class Answers:
    """The answers that clients had. Each field only grows."""

    submitted: dict[tuple[str, str], int] = field(default_factory=dict)  # (user, key): job
    payloads: dict[tuple[str, str], Any] = field(default_factory=dict)
    started: dict[Attempt, str] = field(default_factory=dict)  # by which worker
    outcomes: dict[Attempt, str] = field(default_factory=dict)  # acknowledged: "done" or "failed"
    started_twice: list[Attempt] = field(default_factory=list)  # given to two workers
    statuses: Counter[str] = field(default_factory=Counter)
    late: list[tuple[str, float]] = field(default_factory=list)  # request, seconds to its answer
    unforeseen: list[tuple[str, str]] = field(default_factory=list)  # request, answer of 500
    guard: threading.Lock = field(default_factory=threading.Lock)


class Load:
    """A context manager: threads that ask the servers at `urls`, until it ends."""

    def __init__(self, urls: list[str], seed: int, threads_per_server: int = 3) -> None:
        self.answers = Answers()
        self.is_submitting = True  # set to False to let the workers drain the line
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        for at, url in enumerate(urls):
            for number in range(threads_per_server):
                chance = random.Random(f"{seed}-{at}-{number}")
                name = f"{at}-{number}"
                self._add(self._submit, url, name, chance)
            for number in range(2):
                chance = random.Random(f"{seed}-worker-{at}-{number}")
                self._add(self._work, url, f"worker-{at}-{number}", chance)
            self._add(self._read, url, f"reader-{at}", random.Random(f"{seed}-reader-{at}"))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _add(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))

    def _submit(self, url: str, name: str, chance: random.Random) -> None:
        number = 0
        with httpx.Client(base_url=url, timeout=REQUEST_SECONDS_MAX) as client:
            while not self._stopping.is_set():
                if not self.is_submitting:
                    self._stopping.wait(0.1)
                    continue
                number += 1
                user, key = chance.choice(USERS), f"{name}-{number}"
                body: dict[str, Any] = {
                    "user_id": user,
                    "kind": chance.choice(KINDS),
                    "payload": {"n": number},
                    "idempotency_key": key,
                }
                if chance.random() < 0.1:
                    body["priority"] = chance.choice([-1, 1])
                if chance.random() < 0.05:
                    body["timeout_seconds"] = 30
                answer = self._ask_until_clear(client, "POST", "/v1/jobs", body)
                if answer is not None and answer.status_code in {200, 202}:
                    with self.answers.guard:
                        self.answers.submitted[user, key] = answer.json()["id"]
                        self.answers.payloads[user, key] = body["payload"]
                self._stopping.wait(chance.uniform(0.01, 0.08))

    def _work(self, url: str, worker: str, chance: random.Random) -> None:
        number = 0
        with httpx.Client(base_url=url, timeout=REQUEST_SECONDS_MAX) as client:
            while not self._stopping.is_set():
                number += 1
                body = {"worker": worker, "max": 20, "claim_id": str(number)}
                answer = self._ask_until_clear(client, "POST", "/v1/claims", body)
                if answer is None or answer.status_code != 200:
                    self._stopping.wait(0.2)
                    continue
                jobs = answer.json()["jobs"]
                with self.answers.guard:
                    for job in jobs:
                        attempt = job["id"], job["attempt"]
                        holder = self.answers.started.setdefault(attempt, worker)
                        if holder != worker:
                            self.answers.started_twice.append(attempt)
                if chance.random() < 0.02:
                    continue  # it forgets them, and their leases end
                self._report(client, worker, jobs, chance)
                if not jobs:
                    self._stopping.wait(0.1)

    def _report(
        self, client: httpx.Client, worker: str, jobs: list[dict[str, Any]], chance: random.Random
    ) -> None:
        outcomes = []
        for job in jobs:
            one: dict[str, Any] = {"id": job["id"], "attempt": job["attempt"]}
            if chance.random() < 0.05:
                one["error"] = {"message": "soaked"}
            else:
                one["result"] = {"attempt": job["attempt"]}
            outcomes.append(one)
        left = outcomes
        while left and not self._stopping.is_set():
            body = {"worker": worker, "jobs": left}
            answer = self._ask_until_clear(client, "POST", "/v1/claims/complete", body)
            if answer is None or answer.status_code != 200:
                return
            again = []
            for sent, got in zip(left, answer.json()["jobs"], strict=True):
                status = int(got.get("status", 200))
                if status == 200:
                    with self.answers.guard:
                        self.answers.outcomes[sent["id"], sent["attempt"]] = (
                            "failed" if "error" in sent else "done"
                        )
                elif status in _UNCLEAR:
                    again.append(sent)
            left = again
            if again:
                self._stopping.wait(0.2)

    def _read(self, url: str, _: str, chance: random.Random) -> None:
        with httpx.Client(base_url=url, timeout=REQUEST_SECONDS_MAX) as client:
            while not self._stopping.is_set():
                with self.answers.guard:
                    ids = list(self.answers.submitted.values())[-200:]
                path = chance.choice(
                    [
                        "/v1/stats",
                        "/v1/jobs?limit=50",
                        "/v1/limits",
                        "/metrics",
                        "/readyz",
                        "/livez",
                        "/",
                        "/v1/audit?limit=100",
                    ]
                )
                if ids and chance.random() < 0.5:
                    path = f"/v1/jobs/{chance.choice(ids)}{chance.choice(['', '/events'])}"
                self._ask(client, "GET", path, None)
                self._stopping.wait(chance.uniform(0.05, 0.3))

    def _ask_until_clear(
        self, client: httpx.Client, method: str, path: str, body: object
    ) -> httpx.Response | None:
        """None: the soak ended before there was a clear answer."""
        pause = 0.05
        while not self._stopping.is_set():
            answer = self._ask(client, method, path, body)
            if answer is not None and answer.status_code not in _UNCLEAR:
                return answer
            self._stopping.wait(pause)
            pause = min(pause * 2, 1.0)
        return None

    def _ask(
        self, client: httpx.Client, method: str, path: str, body: object
    ) -> httpx.Response | None:
        """None: no answer at all, since the server is being killed."""
        label = f"{method} {_route(path)}"
        began = time.monotonic()
        status = "none"
        answer = None
        with suppress(httpx.TransportError):
            answer = client.request(method, path, json=body)
            status = str(answer.status_code)
        seconds = time.monotonic() - began
        with self.answers.guard:
            self.answers.statuses[f"{label} {status}"] += 1
            if seconds > ANSWER_SECONDS_MAX:
                self.answers.late.append((f"{label} {status}", seconds))
            # What the values of one command are to blame for, as the database says, is a clear no.
            if answer is not None and answer.status_code == 500 and _REFUSED not in answer.text:
                self.answers.unforeseen.append((label, answer.text[:2000]))
        return answer


def _route(path: str) -> str:
    """The path without ids and questions."""
    return "/".join(":id" if part.isdigit() else part for part in path.partition("?")[0].split("/"))
