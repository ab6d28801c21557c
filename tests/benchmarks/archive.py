"""Archiving nine tenths of a log: its speed beside a bare scan, what it frees, and what it costs
others.

The log grew evenly over 100 days, four events of each job, and what is older than ten days is
archived into a folder on the same disk: read, written, folded, read back, compared and deleted,
with a pause after each step of the deletion. The scan fetches all columns of the whole log. Bytes
are those of all tables, after `OPTIMIZE TABLE` or `VACUUM`, divided by all jobs of the log. A
rebuild after it begins with the snapshot at the cut. Beside four clients who submit all the time, a
log of a fifth of the size is archived; the p99 of submissions is the median of spans of some
seconds.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import make_url

from tests.benchmarks.figures import Figure, Limit, ratio_at_most
from tests.benchmarks.filling import Filled, aged
from tests.benchmarks.load import Load, submissions
from tests.benchmarks.replay import replay
from tests.benchmarks.serving import SUBMIT_PATH
from tests.benchmarks.site import KINDS, TITLES, UNLIMITED, Kind, Site
from tests.support.deployment import FAIRLOG
from tests.support.server import without_settings

DAYS: Final = 100
OLDER_THAN_DAYS: Final = 10
CLIENTS: Final = 4


def run(site: Site) -> Iterator[Figure]:
    for kind in KINDS:
        events = 20_000 if site.quick else 1_000_000
        yield from _alone(site, kind, events)
        yield from _beside_clients(site, kind, events // 5)


def _alone(site: Site, kind: Kind, events: int) -> Iterator[Figure]:
    log = aged(site, kind, events, DAYS)
    name = f"{TITLES[kind]}, {events:,} events"
    scan = replay("scan-for-verify", log)
    from_nothing = replay("rebuild", log)
    before = _bytes(log) / log.jobs
    with TemporaryDirectory(dir=site.home) as folder:
        done = replay("archive", log, folder, str(OLDER_THAN_DAYS))
        in_files = sum(one.stat().st_size for one in Path(folder).iterdir())
    after = _bytes(log) / log.jobs
    from_snapshot = replay("rebuild", log)
    site.drop_database(kind, log.url)
    yield Figure(f"{name}: archived", done.rate, "events/s", Limit(scan.rate, "bare scan"))
    yield Figure(f"{name}: peak memory", done.peak_mb, "MB")
    yield Figure(f"{name}: database", after, "bytes/job", Limit(before, "before"))
    yield Figure(f"{name}: files", in_files / log.jobs, "bytes/job")
    yield Figure(
        f"{name}: rebuild from the snapshot",
        from_snapshot.seconds,
        "s",
        Limit(from_nothing.seconds, "from nothing"),
    )


def _beside_clients(site: Site, kind: Kind, events: int) -> Iterator[Figure]:
    log = aged(site, kind, events, DAYS)
    with (
        site.server(log.url) as server,
        TemporaryDirectory(dir=site.home) as folder,
        ThreadPoolExecutor(1) as other,
    ):

        def loads(go_on: Callable[[int], bool]) -> list[Load]:
            found: list[Load] = []
            while go_on(len(found)):
                found.append(
                    submissions(server.url, SUBMIT_PATH, clients=CLIENTS, seconds=site.seconds)
                )
            return found

        loads(lambda done: done < 1)  # warms up
        alone = loads(lambda done: done < site.rounds)
        archiving = other.submit(_run_command, log, folder)
        beside = loads(lambda done: not (done and archiving.done()))
        archiving.result()
        alone += loads(lambda done: done < site.rounds)
    site.drop_database(kind, log.url)
    name = f"{TITLES[kind]}, {events:,} events, {CLIENTS} clients"
    for what, of in (
        ("p50", lambda one: one.p50_ms),
        ("p99", lambda one: one.p99_ms),
    ):
        yield Figure(
            f"{name}: {what} of submissions",
            median(map(of, beside)),
            "ms",
            Limit(median(map(of, alone)), "without"),
            ratio_at_most(1.5) if what == "p99" else None,
        )


def _run_command(log: Filled, folder: str) -> None:
    settings = {  # those of the server
        "FAIRLOG_DATABASE_URL": log.url,
        "FAIRLOG_USER_LIMIT": str(UNLIMITED),
        "FAIRLOG_GLOBAL_LIMIT": str(UNLIMITED),
    }
    done = subprocess.run(
        [FAIRLOG, "archive", "--older-than", f"{OLDER_THAN_DAYS}d", "--to", folder],
        env=without_settings(os.environ) | settings,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)


def _bytes(log: Filled) -> int:
    """Return the bytes of all tables, after what was deleted has been given back."""
    engine = sa.create_engine(log.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if log.kind == "sqlite":
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            size = Path(make_url(log.url).database or "").stat().st_size
        else:
            names = ", ".join(sa.inspect(connection).get_table_names())
            connection.exec_driver_sql(f"OPTIMIZE TABLE {names}").all()
            rows: Any = connection.exec_driver_sql(
                "SELECT SUM(data_length + index_length) FROM information_schema.tables"
                " WHERE table_schema = DATABASE()"
            )
            size = int(rows.scalar_one())
    engine.dispose()
    return size
