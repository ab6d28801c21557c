"""Building all inline projections again from the log, against a bare scan of the columns it reads.

The log has 1 million events, four of each job. The scan fetches the same four columns page by page
through the same driver (PyMySQL; sqlite3) and does nothing with them; it runs before and after, and
the faster one counts. Timed is up to the switch to what was built; deleting what was there before
comes later. Each runs in a process of its own, whose peak of resident memory is shown, beside that
for a log of a tenth of the size. `follow` builds the projections that are not in the writer's
transaction, one after the other.
"""

from collections.abc import Iterator

from tests.benchmarks.figures import Figure, Limit, at_most, ratio_at_least
from tests.benchmarks.filling import Filled, lived
from tests.benchmarks.replay import Pass, replay
from tests.benchmarks.site import KINDS, TITLES, Kind, Site


def run(site: Site) -> Iterator[Figure]:
    for kind in KINDS:
        log = whole_log(site, kind)
        small = lived(site, kind, log.events // 10)
        scan, rebuilt = beside_scan("scan-for-rebuild", "rebuild", log)
        name = f"{TITLES[kind]}, {log.events:,} events"
        yield Figure(
            name, rebuilt.rate, "events/s", Limit(scan.rate, "bare scan"), ratio_at_least(0.4)
        )
        yield Figure(
            f"{name}: peak memory",
            rebuilt.peak_mb,
            "MB",
            Limit(replay("rebuild", small).peak_mb, f"{small.events:,} events"),
            at_most(300),
        )
        followed = replay("follow", log)
        yield Figure(f"{name}: follow", followed.rate, "events/s", Limit(scan.rate, "bare scan"))


def whole_log(site: Site, kind: Kind) -> Filled:
    return lived(site, kind, 20_000 if site.quick else 1_000_000)


def beside_scan(scan: str, task: str, log: Filled) -> tuple[Pass, Pass]:
    """The bare scan and the task."""
    before = replay(scan, log)
    done = replay(task, log)
    after = replay(scan, log)
    for one in (before, done, after):
        if one.events != log.events:
            raise RuntimeError(f"{one.events} events were read, not {log.events}")
    return min(before, after, key=lambda one: one.seconds), done
