"""Bytes on disk for each job, table by table and index by index, of jobs that a server has run.

Each job is submitted with a payload of some 100 bytes, claimed, and completed with a result of
some 60, by customers and workers whose names are as long as real ones. In batches: all jobs wait
before the first is claimed, so that each has been a row of the line. Singly: each is claimed as it
comes, 64 in flight. The log is `events` and `bodies`; the rest is projections. MariaDB: the pages
that each index uses, after the server has purged and ended; it reserves up to 5 MB more for each.
The table's own rows are in its index PRIMARY, or outside of it if they are long. SQLite: the pages
of its file.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import make_url

from tests.benchmarks.figures import Figure, Limit, at_most
from tests.benchmarks.innodb_pages import PAGE_BYTES, used_pages
from tests.benchmarks.lifecycle import (
    Claimer,
    Side,
    jobs_per_second,
    submit_batches,
    submit_singly,
    work_batches,
    work_singly,
)
from tests.benchmarks.serving import BenchmarkServer
from tests.benchmarks.site import TITLES, Kind, Site

_LOG: Final = ("events", "bodies")
_USERS: Final = 2_000
_CLAIMER: Final = Claimer("worker-3.example.com/20311/9f0c4e1d27ab", is_named=True)
_BYTES_SHOWN_MIN: Final = 5.0  # of an index, for each job: smaller ones are put together

Sizes = Mapping[tuple[str, str], int]  # bytes, by table and index


def run(site: Site) -> Iterator[Figure]:
    jobs = 2_000 if site.quick else 50_000
    batches = (
        partial(submit_batches, submission=submission),
        partial(work_batches, outcome=outcome, claimer=_CLAIMER),
    )
    singly = (
        partial(submit_singly, submission=submission),
        partial(work_singly, outcome=outcome, claimer=_CLAIMER),
    )
    cases: tuple[tuple[Kind, str, Sequence[Side]], ...] = (
        ("mariadb", "in batches", batches),
        ("mariadb", "singly", singly),
        ("sqlite", "in batches", batches),
    )
    with ProcessPoolExecutor(2, get_context("spawn")) as clients:
        for kind, name, sides in cases:
            url = site.new_database(kind)
            with site.server(url) as server:
                if name == "singly":
                    jobs_per_second(clients, [server], jobs, sides)
                else:
                    _one_after_the_other(server, jobs, sides)
            sizes = _mariadb_sizes(site, url) if kind == "mariadb" else _sqlite_sizes(url)
            yield from _figures(f"{TITLES[kind]}, {name}", sizes, jobs, kind)
            site.drop_database(kind, url)


def submission(run: int, number: int) -> dict[str, object]:
    """Return a job as a customer's program would submit it."""
    return {
        "user_id": f"customer-{number % _USERS:06d}",
        "kind": "render_invoice",
        "payload": {
            "invoice": f"{run}-{number}",
            "template": "monthly-statement",
            "locale": "de-CH",
            "pages": number % 40,
        },
    }


def outcome(job_id: int) -> dict[str, object]:
    """Return the part of a completion that differs from job to job."""
    return {"result": {"file": f"invoices/{job_id:09d}.pdf", "bytes": 20_000 + job_id % 9_000}}


def _one_after_the_other(server: BenchmarkServer, jobs: int, sides: Sequence[Side]) -> None:
    for side in sides:
        side([server.port], jobs)
    if (done := server.stats()["jobs"]["done"]) != jobs:
        raise RuntimeError(f"{done} jobs are done, not {jobs}")


def _figures(name: str, sizes: Sizes, jobs: int, kind: Kind) -> Iterator[Figure]:
    of_log = sum(size for (table, _), size in sizes.items() if table in _LOG) / jobs
    whole = sum(sizes.values()) / jobs
    target = at_most(2200) if kind == "mariadb" else None
    yield Figure(f"{name}: log and projections", whole, "bytes/job", Limit(of_log, "log"), target)
    rest = 0.0
    for (table, index), size in sorted(sizes.items(), key=lambda one: -one[1]):
        if size / jobs >= _BYTES_SHOWN_MIN:
            yield Figure(f"{name}: {table}, {index}", size / jobs, "bytes/job")
        else:
            rest += size / jobs
    yield Figure(f"{name}: all the rest", rest, "bytes/job")


def _mariadb_sizes(site: Site, url: str) -> Sizes:
    schema = make_url(url).database
    with closing(site.mariadb.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL innodb_fast_shutdown = 0")  # purges what was deleted
        cursor.execute(
            "SELECT t.name, i.name, i.index_id FROM information_schema.innodb_sys_indexes AS i"
            " JOIN information_schema.innodb_sys_tables AS t ON t.table_id = i.table_id"
            " WHERE t.name LIKE %s",
            (f"{schema}/%",),
        )
        indexes = {int(number): (str(table), str(name)) for table, name, number in cursor}
    site.mariadb.stop()
    sizes: dict[tuple[str, str], int] = {}
    for path in {table for table, _ in indexes.values()}:
        table = path.split("/")[1]
        pages, of_long_values = used_pages(site.mariadb.data / f"{path}.ibd")
        for number, count in pages.items():
            sizes[table, indexes[number][1]] = count * PAGE_BYTES
        if of_long_values:
            sizes[table, "long values"] = of_long_values * PAGE_BYTES
    site.mariadb.start()
    return sizes


def _sqlite_sizes(url: str) -> Sizes:
    """Return the pages of each table and index; the file is that plus free pages."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        rows: Any = connection.exec_driver_sql(
            "SELECT m.tbl_name, m.name, SUM(s.pgsize) FROM dbstat AS s"
            " JOIN sqlite_master AS m ON m.name = s.name GROUP BY m.tbl_name, m.name"
        )
        sizes = {(str(table), str(name)): int(size) for table, name, size in rows}
    engine.dispose()
    free = Path(make_url(url).database or "").stat().st_size - sum(sizes.values())
    return {**sizes, ("the file", "free pages"): free}
