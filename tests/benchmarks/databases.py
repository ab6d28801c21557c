"""The same work on each database: all of them take turns in one run.

They are this machine's MariaDB, the later MariaDB and the MySQL of `make test-databases`, and
SQLite. The servers have the same options: commits on disk, no binary log; but the later two offer
TLS, which the connections use then. Submissions come singly from 64 clients, and jobs live in
batches (12,000 of them) or singly (5,000) as in `lifecycle`, on a new database each time; the
connections are spread over as many servers of Fairlog as the name says. SQLite's file belongs to
one. `append` and `rebuild` are as in the benchmarks of these names; the log has 200,000 events.
Each figure is the median of three and is held against the same on this machine's MariaDB, by one
server.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Final, NamedTuple

from tests.benchmarks.append import EVENTS_PER_BATCH, appended_rate
from tests.benchmarks.figures import Figure, Limit, alternate
from tests.benchmarks.filling import lived
from tests.benchmarks.lifecycle import (
    Side,
    jobs_per_second,
    submit_batches,
    submit_singly,
    work_batches,
    work_singly,
)
from tests.benchmarks.load import submissions
from tests.benchmarks.replay import replay
from tests.benchmarks.serving import SUBMIT_PATH, BenchmarkServer
from tests.benchmarks.site import TITLES, Kind, Site

SERVERS: Final = (1, 2, 4)
CLIENTS: Final = 64
_DATABASES: Final[tuple[Kind, ...]] = ("mariadb", "mariadb-11", "mysql", "sqlite")
_TITLES: Final[Mapping[Kind, str]] = {**TITLES, "mariadb": "MariaDB 10.11"}  # of Debian 12


class Case(NamedTuple):
    kind: Kind
    servers: int = 1


_BASE: Final = Case("mariadb")


def run(site: Site) -> Iterator[Figure]:
    kinds = [kind for kind in _DATABASES if site.has(kind)]
    for kind in _DATABASES:
        if kind not in kinds:
            site.note(f"left out, since it is not here: {_TITLES[kind]}")
        elif kind != "sqlite":
            site.database_server(kind)
    one_server = list(map(Case, kinds))
    several = [
        Case(kind, servers)
        for servers in SERVERS
        for kind in kinds
        if servers == 1 or kind != "sqlite"
    ]
    yield from _figures(
        site,
        f"submit, {CLIENTS} clients",
        "submissions/s",
        {case: partial(_submitted_rate, site, case) for case in several},
    )
    yield from _figures(
        site,
        f"append, batches of {EVENTS_PER_BATCH}",
        "events/s",
        {case: partial(appended_rate, site, case.kind) for case in one_server},
    )
    batches = (submit_batches, work_batches)
    yield from _figures(
        site,
        "lifecycle, in batches",
        "jobs/s",
        {case: partial(_lived_rate, site, case, 12_000, batches) for case in several},
    )
    yield from _figures(
        site,
        "lifecycle, singly",
        "jobs/s",
        {
            case: partial(_lived_rate, site, case, 5_000, (submit_singly, work_singly))
            for case in one_server
        },
    )
    yield from _figures(
        site,
        "rebuild",
        "events/s",
        {case: partial(_rebuilt_rate, site, case.kind) for case in one_server},
    )


def _figures(
    site: Site, name: str, unit: str, measures: Mapping[Case, Callable[[], float]]
) -> Iterator[Figure]:
    found = alternate(site.rounds, *measures.values())
    rates = dict(zip(measures, map(median, found), strict=True))
    base = _named(_BASE)
    for case, rate in rates.items():
        limit = None if case == _BASE else Limit(rates[_BASE], base)
        yield Figure(f"{name}, {_named(case)}", rate, unit, limit)


def _named(case: Case) -> str:
    servers = "" if case.servers == 1 else f", {case.servers} servers"
    return f"{_TITLES[case.kind]}{servers}"


@contextmanager
def _servers(site: Site, case: Case) -> Iterator[list[BenchmarkServer]]:
    """Yield servers of a new database."""
    url = site.new_database(case.kind)
    with ExitStack() as stack:
        yield [stack.enter_context(site.server(url)) for _ in range(case.servers)]
    site.drop_database(case.kind, url)


def _submitted_rate(site: Site, case: Case) -> float:
    def load(server: BenchmarkServer, seconds: int) -> float:
        clients = CLIENTS // case.servers
        return submissions(server.url, SUBMIT_PATH, clients=clients, seconds=seconds).rate

    with _servers(site, case) as servers, ThreadPoolExecutor(case.servers) as threads:
        list(threads.map(partial(load, seconds=1), servers))  # warms up
        return sum(threads.map(partial(load, seconds=site.seconds), servers))


def _lived_rate(site: Site, case: Case, jobs: int, sides: tuple[Side, Side]) -> float:
    many = jobs // 10 if site.quick else jobs
    with (
        _servers(site, case) as servers,
        ProcessPoolExecutor(2, get_context("spawn")) as clients,
    ):
        jobs_per_second(clients, servers, many // 5, sides)  # warms up
        return jobs_per_second(clients, servers, many, sides)


def _rebuilt_rate(site: Site, kind: Kind) -> float:
    return replay("rebuild", lived(site, kind, 20_000 if site.quick else 200_000)).rate
