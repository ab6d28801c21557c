"""Jobs from submission to completion over HTTP, one server process, no work to be done.

One client process submits, another claims and completes, each over several connections, at the same
time; the clock runs from the first request to the last answer, and the server then says that every
job is done. In batches: 500 jobs a submission, a claim and a report of outcomes. Singly: each job
is submitted by a request of its own and completed by one of its own, 64 in flight on either side,
claimed up to 64 at a time. Each job is four events (decision, submission, start, completion), and
the limit is what the hand-written INSERT of `append` can write of them. Three runs; medians.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from multiprocessing import get_context
from secrets import token_hex
from statistics import median
from typing import Any, Final

from msgspec import Struct

from tests.benchmarks.append import hand_written_rate
from tests.benchmarks.client import Client
from tests.benchmarks.figures import Figure, Limit, at_least
from tests.benchmarks.serving import SUBMIT_PATH, BenchmarkServer
from tests.benchmarks.site import Site
from tests.support.waiting import wait_until

EVENTS_PER_JOB: Final = 4
JOBS_PER_BATCH: Final = 500
CONNECTIONS: Final = 4  # on either side, in batches
IN_FLIGHT: Final = 64  # on either side, singly
_USERS: Final = 100
_SECONDS_BEHIND_MAX: Final = 5.0


class Span(Struct, frozen=True):
    """Times by the machine's monotonic clock, which all its processes share, in seconds."""

    started: float
    ended: float


class Claimer(Struct, frozen=True):
    """How claims are made."""

    worker: str
    is_named: bool = False  # each claim has an id of its own, as workers give it

    async def claim(self, client: Client, most: int) -> list[dict[str, Any]]:
        content = {"worker": self.worker, "max": most, "wait_seconds": 0.2}
        if self.is_named:
            content["claim_id"] = token_hex(8)
        jobs: list[dict[str, Any]] = (await client.ask("/v1/claims", content))["jobs"]
        return jobs


NAMELESS: Final = Claimer("bench")

Side = Callable[[Sequence[int], int], Span]  # ports of the servers, jobs
Submission = Callable[[int, int], dict[str, object]]  # of a run, and of a number in it
Outcome = Callable[[int], dict[str, object]]  # of a job's id


def run(site: Site) -> Iterator[Figure]:
    inserted = hand_written_rate(site, "mariadb") / EVENTS_PER_JOB
    with ProcessPoolExecutor(2, get_context("spawn")) as clients:
        for name, jobs, sides in (
            ("in batches", 3000 if site.quick else 12_000, (submit_batches, work_batches)),
            ("singly", 1000 if site.quick else 10_000, (submit_singly, work_singly)),
        ):
            url = site.new_database("mariadb")
            with site.server(url) as server:
                jobs_per_second(clients, [server], jobs // 5, sides)  # warms up
                rates = [
                    jobs_per_second(clients, [server], jobs, sides) for _ in range(site.rounds)
                ]
            site.drop_database("mariadb", url)
            yield Figure(
                f"MariaDB, {name}",
                median(rates),
                "jobs/s",
                Limit(inserted, "INSERT, 4 events"),
                at_least(2000) if name == "in batches" else None,
            )


def jobs_per_second(
    clients: ProcessPoolExecutor,
    servers: Sequence[BenchmarkServer],
    jobs: int,
    sides: Sequence[Side],
) -> float:
    """Run both sides at once, their connections spread over the servers of one database. Raises
    `AssertionError` where not all jobs are done then, and `RuntimeError` where more are.
    """
    done_before = servers[0].stats()["jobs"]["done"]
    running = [clients.submit(side, [one.port for one in servers], jobs) for side in sides]
    spans = [one.result() for one in running]

    def done() -> int:
        found: int = servers[0].stats()["jobs"]["done"] - done_before
        return found

    # A server may not have read yet what another has written.
    wait_until(lambda: done() >= jobs, f"{jobs} jobs are done", _SECONDS_BEHIND_MAX)
    if done() > jobs:
        raise RuntimeError(f"{done()} jobs are done, not {jobs}")
    return jobs / (max(one.ended for one in spans) - min(one.started for one in spans))


def submission_of(run: int, number: int) -> dict[str, object]:
    """Return a small job; `run` tells it from those of earlier runs."""
    return {
        "user_id": f"user-{number % _USERS}",
        "kind": "echo",
        "payload": {"image": f"{run}-{number}", "width": 640},
    }


def no_result(_: int) -> dict[str, object]:
    """Return what a job's outcome has besides its id and attempt."""
    return {}


def submit_batches(ports: Sequence[int], jobs: int, submission: Submission = submission_of) -> Span:
    starts = iter(range(0, jobs, JOBS_PER_BATCH))
    run = time.monotonic_ns()

    async def submit(client: Client) -> None:
        for start in starts:
            numbers = range(start, min(jobs, start + JOBS_PER_BATCH))
            answer = await client.ask(
                "/v1/jobs/batch", {"jobs": [submission(run, number) for number in numbers]}
            )
            if any(outcome["status"] != 202 for outcome in answer["jobs"]):
                raise RuntimeError(f"not accepted: {answer['jobs']}")

    return _timed(ports, [submit] * CONNECTIONS)


def work_batches(
    ports: Sequence[int], jobs: int, outcome: Outcome = no_result, claimer: Claimer = NAMELESS
) -> Span:
    done = 0

    async def work(client: Client) -> None:
        nonlocal done
        while done < jobs:
            claimed = await claimer.claim(client, JOBS_PER_BATCH)
            if not claimed:
                continue
            outcomes = [
                {"id": job["id"], "attempt": job["attempt"], **outcome(job["id"])}
                for job in claimed
            ]
            content = {"worker": claimer.worker, "jobs": outcomes}
            answer = await client.ask("/v1/claims/complete", content)
            if any(outcome["status"] != 200 for outcome in answer["jobs"]):
                raise RuntimeError(f"not completed: {answer['jobs']}")
            done += len(claimed)

    return _timed(ports, [work] * CONNECTIONS)


def submit_singly(ports: Sequence[int], jobs: int, submission: Submission = submission_of) -> Span:
    numbers = iter(range(jobs))
    run = time.monotonic_ns()

    async def submit(client: Client) -> None:
        for number in numbers:
            await client.ask(SUBMIT_PATH, submission(run, number))

    return _timed(ports, [submit] * IN_FLIGHT)


def work_singly(
    ports: Sequence[int], jobs: int, outcome: Outcome = no_result, claimer: Claimer = NAMELESS
) -> Span:
    """One connection claims, the others complete what it has got."""
    in_hand: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=IN_FLIGHT)

    async def claim(client: Client) -> None:
        claimed = 0
        while claimed < jobs:
            for job in await claimer.claim(client, IN_FLIGHT):
                claimed += 1
                await in_hand.put(job)
        for _ in range(IN_FLIGHT):
            await in_hand.put(None)

    async def complete(client: Client) -> None:
        while (job := await in_hand.get()) is not None:
            content = {"attempt": job["attempt"], **outcome(job["id"])}
            await client.ask(f"/v1/jobs/{job['id']}/complete", content)

    return _timed(ports, [claim, *[complete] * IN_FLIGHT])


def _timed(ports: Sequence[int], parts: "Sequence[Callable[[Client], Any]]") -> Span:
    """Run all parts at once, each on a connection of its own, to the servers in turn."""

    async def one(part: Callable[[Client], Any], port: int) -> None:
        async with Client(port) as client:
            await part(client)

    async def all_of_them() -> Span:
        started = time.monotonic()
        await asyncio.gather(*map(one, parts, cycle(ports)))
        return Span(started, time.monotonic())

    return asyncio.run(all_of_them())
