"""The dashboard on MariaDB with 1 million waiting jobs of 100 thousand users.

Each view is timed over HTTP, the whole page by one client, the views in turn and so far apart that
none is answered with what was worked out for the request before; users, ids and moments are random.
The page of past events loads the system state separately, after itself. That state is folded from
the last snapshot before the moment, whose distance grows with the users. The no-op is a `POST` to
the same server by the same client.

Then in Chromium: from navigation, in a fresh profile, until scripts run and the stream is open; and
from sending a submission until an open page shows it. At last, statements that the database gets in
a second while five jobs are submitted in two, with 50 people who each have the overview and the
audit open, beside one; what it gets when nobody looks is taken off both. These 50 have no browser:
they ask for what the pages' script asks for.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from statistics import median, quantiles
from typing import Any, Final

import httpx

from tests.benchmarks.figures import Figure, Limit, at_most, ratio_at_most
from tests.benchmarks.filling import Filled, followed, queued
from tests.benchmarks.growth import SIZES, SIZES_QUICK
from tests.benchmarks.history import HEAVY
from tests.benchmarks.onlookers import onlookers
from tests.benchmarks.open_pages import CHANGING, until_live, until_shown
from tests.benchmarks.serving import NOOP_PATH, BenchmarkServer
from tests.benchmarks.site import Site
from tests.support.browser import chromium
from tests.support.server import claim, submit

ANSWER_MS_MAX: Final = 50.0
LIVE_MS_MAX: Final = 1000.0
SHOWN_MS_MAX: Final = 1000.0
PEOPLE: Final = 50
PEOPLE_RATIO_MAX: Final = 1.2
_VIEWS: Final = ("/", "/fairness", "/limits", "/jobs", "/audit")
_ROUND_SECONDS: Final = 0.8  # more than an answer is shared for
_TRICKLE_SECONDS: Final = 0.4  # between two submissions


def run(site: Site) -> Iterator[Figure]:
    filled = followed(site, queued(site, "mariadb", *(SIZES_QUICK if site.quick else SIZES)[-1]))
    with site.server(filled.url, settings={"lease_seconds": 86_400}) as server:
        _live_a_little(server)
        yield from _answers(server, filled, 10 if site.quick else 24)
        yield from _in_browser(server, 1 if site.quick else 3, 3 if site.quick else 10)
        yield from _cost_of_onlookers(site, server)


def _live_a_little(server: BenchmarkServer) -> None:
    """Some jobs in each state, so that no part of a page is empty."""
    for number, job in enumerate(claim(server.client, 200, worker="bench")):
        path = f"/v1/jobs/{job['id']}"
        if number % 4 == 0:
            _post(server, f"{path}/complete", {"attempt": job["attempt"], "result": None})
        elif number % 4 == 1:
            error = {"type": "ValueError", "message": f"picture {number % 8} is broken"}
            _post(
                server, f"{path}/fail", {"attempt": job["attempt"], "error": error, "retry": False}
            )
    submit(server.client, run_at="2100-01-01T00:00:00Z")


def _post(server: BenchmarkServer, path: str, body: object) -> None:
    server.client.post(path, json=body).raise_for_status()


def _answers(server: BenchmarkServer, filled: Filled, rounds: int) -> Iterator[Figure]:
    """Each view's median and 99th percentile."""
    pages = _pages(filled)
    took: dict[str, list[float]] = {name: [] for name in pages}
    noops = []
    for _ in range(rounds):
        begun = time.monotonic()
        noops.append(_took_ms(server, "POST", NOOP_PATH, _submission()))
        for name, path in pages.items():
            took[name].append(_took_ms(server, "GET", path()))
        time.sleep(max(0.0, begun + _ROUND_SECONDS - time.monotonic()))
    noop = Limit(median(noops), "the no-op")
    for name, milliseconds in took.items():
        p50, p99 = median(milliseconds), quantiles(milliseconds, n=100, method="inclusive")[98]
        yield Figure(f"{name}, p50", p50, "ms", noop, at_most(ANSWER_MS_MAX))
        yield Figure(f"{name}, p99", p99, "ms", noop)
    states = [
        _took_ms(server, "GET", f"/audit/state?as_of={2 * random.randint(1, filled.jobs)}")
        for _ in range(5)
    ]
    yield Figure("system state at a moment, median", median(states), "ms", noop)


def _took_ms(server: BenchmarkServer, method: str, path: str, body: object = None) -> float:
    started = time.perf_counter()
    answer = server.client.request(method, path, json=body)
    took = time.perf_counter() - started
    answer.raise_for_status()
    return took * 1000


def _pages(filled: Filled) -> Mapping[str, Callable[[], str]]:
    """Views by name, with what gives the next address to ask."""

    def job() -> int:
        return 2 * random.randint(1, filled.jobs)

    def user() -> str:
        return f"user-{random.randrange(1, filled.users)}"

    return {
        "overview": lambda: "/",
        "overview's charts, 3 days": lambda: "/charts.json?span=3d",
        "fairness": lambda: "/fairness",
        "limits": lambda: "/limits",
        "limits of a user": lambda: f"/limits?user={user()}",
        "jobs": lambda: "/jobs",
        "jobs of the heavy user": lambda: f"/jobs?user={HEAVY}",
        "jobs of a light user": lambda: f"/jobs?user={user()}",
        "jobs by state": lambda: "/jobs?state=queued",
        "jobs by rare state": lambda: "/jobs?state=failed",
        "jobs of the heavy user by rare state": lambda: f"/jobs?user={HEAVY}&state=failed",
        "jobs by rare kind": lambda: "/jobs?kind=default",
        "jobs, deep page": lambda: f"/jobs?before={job()}",
        "jobs of the heavy user, deep page": lambda: f"/jobs?user={HEAVY}&before={job()}",
        "a job": lambda: f"/jobs/{job()}",
        "audit": lambda: "/audit",
        "audit of the heavy user": lambda: f"/audit?user={HEAVY}",
        "audit by rare type": lambda: "/audit?type=JobFailed",
        "audit of the heavy user by rare type": lambda: f"/audit?user={HEAVY}&type=JobFailed",
        "audit, deep page": lambda: f"/audit?before={job()}",
        "audit as of a moment": lambda: f"/audit?as_of={job()}",
        "a job as of a moment": lambda: f"/jobs/2?as_of={job()}",
    }


def _submission() -> dict[str, Any]:
    return {
        "user_id": "user-1",
        "kind": "echo",
        "payload": {"image": secrets.token_hex(8), "width": 640},
    }


def _in_browser(server: BenchmarkServer, openings: int, submissions: int) -> Iterator[Figure]:
    with chromium() as browser:
        live = {path: until_live(browser, server, path, openings) for path in _VIEWS}
        shown = {path: until_shown(browser, server, path, submissions) for path in CHANGING}
    for path, milliseconds in live.items():
        yield Figure(f"{path} until live", milliseconds, "ms", target=at_most(LIVE_MS_MAX))
    for path, milliseconds in shown.items():
        yield Figure(
            f"{path}, from submission to sight", milliseconds, "ms", target=at_most(SHOWN_MS_MAX)
        )


def _cost_of_onlookers(site: Site, server: BenchmarkServer) -> Iterator[Figure]:
    crowds = (0, 1, PEOPLE)
    counted: dict[int, list[float]] = {people: [] for people in crowds}
    for _ in range(site.rounds):
        for people in crowds:
            counted[people].append(asyncio.run(_statements_a_second(site, server, people)))
    unwatched, one, many = (median(counted[people]) for people in crowds)
    yield Figure("nobody looks", unwatched, "statements/s")
    yield Figure(
        f"{PEOPLE} people look",
        many - unwatched,
        "statements/s more",
        Limit(one - unwatched, "one looks"),
        ratio_at_most(PEOPLE_RATIO_MAX),
    )


async def _statements_a_second(site: Site, server: BenchmarkServer, people: int) -> float:
    """Measure over a fixed number of submissions; the viewers open their pages before."""
    async with onlookers(server.url, people), httpx.AsyncClient(base_url=server.url) as client:
        await _trickle(client, 6)
        started, before = time.monotonic(), await asyncio.to_thread(_statements, site)
        await _trickle(client, 8 if site.quick else 18)
        counted = await asyncio.to_thread(_statements, site) - before
        return counted / (time.monotonic() - started)


async def _trickle(client: httpx.AsyncClient, submissions: int) -> None:
    """Submit at a steady rate by the clock: a busy machine has as many in the same time, and their
    cost without viewers can be subtracted.
    """
    begun = time.monotonic()
    for number in range(1, submissions + 1):
        (await client.post("/v1/jobs", json=_submission())).raise_for_status()
        await asyncio.sleep(max(0.0, begun + number * _TRICKLE_SECONDS - time.monotonic()))


def _statements(site: Site) -> int:
    """Return the number of statements that the database server has had since it started."""
    with closing(site.mariadb.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
        found = cursor.fetchone()
    assert found is not None
    return int(found[1])
