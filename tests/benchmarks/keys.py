"""Submissions with an API key beside the same without keys, by 64 clients.

Two servers, each with a database of its own, are asked in turn; figures are medians. The key is
checked before the body is read, its bounds when the submission is decoded, and its validity once
more under the head lock; each event names it.
"""

from collections.abc import Iterator
from typing import Final

from tests.benchmarks.figures import Figure, Limit, alternate, median_of, ratio_at_least
from tests.benchmarks.load import Load, submissions
from tests.benchmarks.serving import SUBMIT_PATH, BenchmarkServer
from tests.benchmarks.site import KINDS, TITLES, Kind, Site
from tests.support.core import execute_now, service
from tests.support.keys import create_key, secret

CLIENTS: Final = 64
_NAME: Final = "benchmark"
_SECRET: Final = secret(_NAME)


def run(site: Site) -> Iterator[Figure]:
    for kind in KINDS:
        urls = [site.new_database(kind) for _ in range(2)]
        yield _measure(site, kind, *urls)
        for url in urls:
            site.drop_database(kind, url)


def _measure(site: Site, kind: Kind, free_url: str, keyed_url: str) -> Figure:
    with service(keyed_url) as fairlog:
        execute_now(fairlog, create_key(_NAME, any_user=True))
    with site.server(free_url) as free, site.server(keyed_url) as keyed:

        def load(server: BenchmarkServer, key: str | None) -> Load:
            return submissions(
                server.url, SUBMIT_PATH, clients=CLIENTS, seconds=site.seconds, key=key
            )

        load(free, None)  # warms up
        load(keyed, _SECRET)
        without, with_key = alternate(
            site.rounds, lambda: load(free, None), lambda: load(keyed, _SECRET)
        )
    return Figure(
        f"{TITLES[kind]}, {CLIENTS} clients with a key",
        median_of(with_key, lambda one: one.rate),
        "submissions/s",
        Limit(median_of(without, lambda one: one.rate), "without keys"),
        ratio_at_least(0.95) if kind == "mariadb" else None,
    )
