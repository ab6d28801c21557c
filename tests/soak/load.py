"""Clients that submit and read without rest, and keep what they were answered.

A submission without a clear answer is sent again with its key until it has one, as a careful client
does.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import httpx

from tests.soak.answers import Answers, Refusal, Submitted
from tests.soak.referee.history import micros
from tests.soak.tenants import HANDLED_KINDS, HTTP_KINDS, TENANTS, USERS_PER_TENANT, Keys, header

REQUEST_SECONDS_MAX: Final = 15.0
# A key stands for a job only for so long after the job (SETTINGS); a client must give up before.
TRYING_SECONDS_MAX: Final = 150.0
PAUSE_SECONDS_MIN: Final = 1.0  # a shorter time to an answer is not kept
_BURST: Final = 12  # submissions of one user at once: more than a window of the plan `free` admits
_KINDS: Final = (*HTTP_KINDS, HANDLED_KINDS[0])
_REFUSED: Final = "The database refused this command."
_UNCLEAR: Final = frozenset({408, 421, 500, 502, 503, 504})
_PATHS: Final = (
    "/v1/stats",
    "/v1/jobs?limit=50",
    "/v1/limits",
    "/v1/schedules",
    "/metrics",
    "/readyz",
    "/livez",
    "/v1/audit?limit=100",
)


class Load:
    """A context manager: threads that ask the servers at `urls`, until it ends."""

    def __init__(self, urls: list[str], seed: int, keys: Keys, threads_per_server: int = 3) -> None:
        self.answers = Answers()
        self.is_submitting = True  # set to False to let the workers drain the line
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        for at, url in enumerate(urls):
            for number in range(threads_per_server):
                name = f"{at}-{number}"
                tenant = TENANTS[(at * threads_per_server + number) % len(TENANTS)]
                chance = random.Random(f"{seed}-submit-{name}")
                self._add(self._submit, url, name, tenant, keys.tenants[tenant], chance)
            self._add(self._read, url, keys.reader, random.Random(f"{seed}-reader-{at}"))

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

    def _submit(self, url: str, name: str, tenant: str, secret: str, chance: random.Random) -> None:
        number = 0
        with self._client(url, secret) as client:
            while not self._stopping.is_set():
                if not self.is_submitting:
                    self._stopping.wait(0.1)
                    continue
                user = f"{tenant}/{chance.randrange(USERS_PER_TENANT)}"
                for _ in range(_BURST if chance.random() < 0.12 else 1):
                    number += 1
                    body = _submission(user, f"{name}-{number}", number, chance)
                    self._submit_one(client, body, tenant)
                self._stopping.wait(chance.uniform(0.05, 0.4))

    def _submit_one(self, client: httpx.Client, body: dict[str, Any], tenant: str) -> None:
        began = time.monotonic()
        answer = self._ask_until_clear(client, body)
        if answer is None:
            return
        at = time.time_ns() // 1000
        told = answer.json()
        with self.answers.guard:
            pause = time.monotonic() - began
            if pause > PAUSE_SECONDS_MIN:
                self.answers.pauses.append((at, pause))
            if answer.status_code in {200, 202}:
                self.answers.submitted[body["user_id"], body["idempotency_key"]] = Submitted(
                    told["id"], body["kind"], body["payload"], tenant
                )
            elif answer.status_code == 429:
                self.answers.refused.append(
                    Refusal(
                        user=body["user_id"],
                        at=at,
                        scope=told["scope"],
                        limit=told["limit"],
                        window_seconds=told["window_seconds"],
                        resets_at=micros(told["resets_at"]),
                    )
                )
            else:
                self.answers.unforeseen.append(("POST /v1/jobs", answer.text[:2000]))

    def _ask_until_clear(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response | None:
        """None: the soak ended, or it took too long, before there was a clear answer."""
        pause = 0.05
        gives_up = time.monotonic() + TRYING_SECONDS_MAX
        while not self._stopping.is_set() and time.monotonic() < gives_up:
            answer = self._ask(client, "POST", "/v1/jobs", body)
            if answer is not None and answer.status_code not in _UNCLEAR:
                return answer
            self._stopping.wait(pause)
            pause = min(pause * 2, 1.0)
        return None

    def _read(self, url: str, secret: str, chance: random.Random) -> None:
        with self._client(url, secret) as client:
            while not self._stopping.is_set():
                with self.answers.guard:
                    jobs = [one.job for one in list(self.answers.submitted.values())[-200:]]
                path = chance.choice(_PATHS)
                if jobs and chance.random() < 0.5:
                    path = f"/v1/jobs/{chance.choice(jobs)}{chance.choice(['', '/events'])}"
                self._ask(client, "GET", path, None)
                self._stopping.wait(chance.uniform(0.1, 0.5))

    def _client(self, url: str, secret: str) -> httpx.Client:
        return httpx.Client(base_url=url, headers=header(secret), timeout=REQUEST_SECONDS_MAX)

    def _ask(
        self, client: httpx.Client, method: str, path: str, body: object
    ) -> httpx.Response | None:
        """None: no answer at all, since the server is being killed."""
        label = f"{method} {_route(path)}"
        answer = None
        with suppress(httpx.TransportError):
            answer = client.request(method, path, json=body)
        status = "none" if answer is None else str(answer.status_code)
        with self.answers.guard:
            self.answers.statuses[f"{label} {status}"] += 1
            # What the values of one command are to blame for, as the database says, is a clear no.
            if answer is not None and answer.status_code == 500 and _REFUSED not in answer.text:
                self.answers.unforeseen.append((label, answer.text[:2000]))
        return answer


def _submission(user: str, key: str, number: int, chance: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {
        "user_id": user,
        "kind": chance.choice(_KINDS),
        "payload": {"n": number, "text": "x" * chance.randrange(40)},
        "idempotency_key": key,
    }
    if chance.random() < 0.1:
        body["priority"] = chance.choice([-1, 1])
    if chance.random() < 0.05:
        body["timeout_seconds"] = 30
    if chance.random() < 0.03:
        soon = datetime.now(UTC) + timedelta(seconds=chance.uniform(1, 5))
        body["run_at"] = soon.isoformat()
    return body


def _route(path: str) -> str:
    """The path without ids and questions."""
    return "/".join(":id" if part.isdigit() else part for part in path.partition("?")[0].split("/"))
