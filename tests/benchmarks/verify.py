"""Checking the log and every projection against it, against a bare scan of all columns.

The log is that of `rebuild`, and so are the scan, the processes and the memory. Checked are
positions, hashes, clock, bodies, the legality of each event, and every row of every projection; it
has to come out clean.
"""

from collections.abc import Iterator

from tests.benchmarks.figures import Figure, Limit, at_most, ratio_at_least
from tests.benchmarks.filling import lived
from tests.benchmarks.rebuild import beside_scan, whole_log
from tests.benchmarks.replay import replay
from tests.benchmarks.site import KINDS, TITLES, Site


def run(site: Site) -> Iterator[Figure]:
    for kind in KINDS:
        log = whole_log(site, kind)
        small = lived(site, kind, log.events // 10)
        if "rebuild" not in site.has_run:  # the projections are still those of an empty log
            for one in (log, small):
                replay("rebuild", one)
        scan, verified = beside_scan("scan-for-verify", "verify", log)
        name = f"{TITLES[kind]}, {log.events:,} events"
        yield Figure(
            name, verified.rate, "events/s", Limit(scan.rate, "bare scan"), ratio_at_least(1 / 3)
        )
        yield Figure(
            f"{name}: peak memory",
            verified.peak_mb,
            "MB",
            Limit(replay("verify", small).peak_mb, f"{small.events:,} events"),
            at_most(300),
        )
