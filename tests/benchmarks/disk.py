"""Bytes on disk for each job, of the log of `rebuild`: jobs that are done, four events each.

Payloads and results are some 60 bytes. The log is `events` and `bodies`, with their indexes; the
rest is projections, built once. MariaDB: the sizes of the tables' files. SQLite: that of its file,
in which tables cannot be told apart.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from tests.benchmarks.figures import Figure, Limit
from tests.benchmarks.rebuild import whole_log
from tests.benchmarks.replay import replay
from tests.benchmarks.site import Site

_LOG: Final = ("events", "bodies")


def run(site: Site) -> Iterator[Figure]:
    mariadb, sqlite = whole_log(site, "mariadb"), whole_log(site, "sqlite")
    if "rebuild" not in site.has_run:
        for log in (mariadb, sqlite):
            replay("rebuild", log)
    sizes = _table_bytes(site, mariadb.url)
    log_bytes = sum(sizes.get(name, 0) for name in _LOG) / mariadb.jobs
    yield Figure("MariaDB: log", log_bytes, "bytes/job")
    yield Figure(
        "MariaDB: log and projections",
        sum(sizes.values()) / mariadb.jobs,
        "bytes/job",
        Limit(log_bytes, "log"),
    )
    file = Path(make_url(sqlite.url).database or "")
    yield Figure("SQLite: log and projections", file.stat().st_size / sqlite.jobs, "bytes/job")


def _table_bytes(site: Site, url: str) -> Mapping[str, int]:
    """The size of each table's file."""
    database = make_url(url).database
    with site.mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, file_size FROM information_schema.innodb_sys_tablespaces"
            " WHERE name LIKE %s",
            (f"{database}/%",),
        )
        return {str(name).split("/")[1]: int(size) for name, size in cursor.fetchall()}
