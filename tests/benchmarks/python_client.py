"""Submissions by the Python client beside bare POSTs of the same with httpx.

One thread submits one job after the other over one connection, alternately in both ways; figures
are medians of the time that a submission takes. The client adds a key, its retries and the typed
job. As processor time of the submitting process, nothing of the server is in it.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

import httpx
from msgspec import Struct

from fairlog_client import Fairlog
from tests.benchmarks.figures import Figure, Limit, alternate, median_of, ratio_at_most
from tests.benchmarks.serving import SUBMIT_PATH
from tests.benchmarks.site import Site

_USERS: Final = 100


class Took(Struct, frozen=True):
    """The time of one submission."""

    milliseconds: float
    processor_milliseconds: float


def run(site: Site) -> Iterator[Figure]:
    url = site.new_database("mariadb")
    jobs = 200 if site.quick else 2000
    with (
        site.server(url) as server,
        Fairlog(server.url) as fairlog,
        httpx.Client(base_url=server.url) as client,
    ):

        def by_client(number: int) -> None:
            fairlog.submit(user_id=f"u{number % _USERS}", kind="echo", payload={"n": number})

        def bare(number: int) -> None:
            body = {
                "user_id": f"u{number % _USERS}",
                "kind": "echo",
                "payload": {"n": number},
                "deduplicate": False,
            }
            client.post(SUBMIT_PATH, json=body).raise_for_status().json()

        for submit in (by_client, bare):  # warms up
            took(submit, jobs // 5)
        rounds = max(3, site.rounds)
        ours, theirs = alternate(rounds, lambda: took(by_client, jobs), lambda: took(bare, jobs))
    site.drop_database("mariadb", url)
    yield Figure(
        "MariaDB, a submission",
        median_of(ours, lambda one: one.milliseconds),
        "ms",
        Limit(median_of(theirs, lambda one: one.milliseconds), "bare httpx"),
        ratio_at_most(1.3),
    )
    yield Figure(
        "MariaDB, a submission, processor time of the client",
        median_of(ours, lambda one: one.processor_milliseconds),
        "ms",
        Limit(median_of(theirs, lambda one: one.processor_milliseconds), "bare httpx"),
    )


def took(submit: Callable[[int], None], jobs: int) -> Took:
    began, began_processor = time.perf_counter(), time.process_time()
    for number in range(jobs):
        submit(number)
    return Took(
        1e3 * (time.perf_counter() - began) / jobs,
        1e3 * (time.process_time() - began_processor) / jobs,
    )
