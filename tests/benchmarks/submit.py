"""Durable `POST /v1/jobs` by 8, 64 and 256 clients, against the no-op on the same server.

The no-op is a Litestar handler with the same request and response types, registered in the same
application. Both are asked in turn, three times; figures are medians. Every submission is decided,
hashed into the chain, projected and committed (`innodb_flush_log_at_trx_commit=1`; SQLite:
`synchronous=FULL`) before it is answered. wrk runs on the same machine and takes a share of it. The
bare no-op is one in an application without anything of ours.
"""

from collections.abc import Iterator
from typing import Final

from tests.benchmarks.figures import (
    Figure,
    Limit,
    Target,
    alternate,
    at_most,
    median_of,
    ratio_at_least,
)
from tests.benchmarks.load import Load, submissions
from tests.benchmarks.serving import NOOP_PATH, SUBMIT_PATH, BenchmarkServer
from tests.benchmarks.site import KINDS, TITLES, Kind, Site

CLIENTS: Final = (8, 64, 256)


def run(site: Site) -> Iterator[Figure]:
    for kind in KINDS:
        url = site.new_database(kind)
        with site.server(url) as server:
            submissions(server.url, SUBMIT_PATH, clients=64, seconds=site.seconds)  # warms up
            rates: dict[int, float] = {}
            for clients in CLIENTS:
                yield from _at(site, server, kind, clients, rates)
        with site.server(url, bare=True) as server:
            bare = submissions(server.url, NOOP_PATH, clients=64, seconds=site.seconds)
        if kind == "mariadb":
            yield Figure("Litestar alone, 64 clients: bare no-op", bare.rate, "requests/s")
        yield from _collapse(kind, rates)
        site.drop_database(kind, url)


def _at(
    site: Site, server: BenchmarkServer, kind: Kind, clients: int, rates: dict[int, float]
) -> Iterator[Figure]:
    def load(path: str) -> Load:
        return submissions(server.url, path, clients=clients, seconds=site.seconds)

    before = server.stats()["rates"]
    noops, submits = alternate(site.rounds, lambda: load(NOOP_PATH), lambda: load(SUBMIT_PATH))
    after = server.stats()["rates"]
    name = f"{TITLES[kind]}, {clients} clients"
    is_judged = (kind, clients) == ("mariadb", 64)
    rates[clients] = median_of(submits, lambda one: one.rate)
    yield Figure(
        name,
        rates[clients],
        "submissions/s",
        Limit(median_of(noops, lambda one: one.rate), "the no-op"),
        ratio_at_least(0.5) if is_judged else None,
    )
    yield _latency(f"{name}: p50", submits, noops, 50, None)
    yield _latency(f"{name}: p99", submits, noops, 99, at_most(60) if is_judged else None)
    batches = after["batches"] - before["batches"]
    yield Figure(
        f"{name}: batch", (after["commands"] - before["commands"]) / batches, "commands a commit"
    )


def _latency(
    name: str, submits: list[Load], noops: list[Load], percentile: int, target: Target | None
) -> Figure:
    def milliseconds(load: Load) -> float:
        return load.p50_ms if percentile == 50 else load.p99_ms

    limit = Limit(median_of(noops, milliseconds), "the no-op")
    return Figure(name, median_of(submits, milliseconds), "ms", limit, target)


def _collapse(kind: Kind, rates: dict[int, float]) -> Iterator[Figure]:
    """Many clients must not make it slow."""
    few, many = CLIENTS[1:]
    yield Figure(
        f"{TITLES[kind]}, {many} clients beside {few}",
        rates[many],
        "submissions/s",
        Limit(rates[few], f"{few} clients"),
        ratio_at_least(0.9) if kind == "mariadb" else None,
    )
