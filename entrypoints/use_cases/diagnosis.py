"""The checks of `doctor` on the service: can the log be written, and is nothing behind?

Each check is one function; none writes anything.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.database.hosts import Hosts
from adapters.doctor import DoctorFinding, Level
from adapters.log import archived
from adapters.log.log_size import LogSize
from adapters.log.lost_events import latest_lost
from adapters.supervision import reason_of
from domain.language.moments import to_micros
from entrypoints.runtime.text import size_of
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.segment_erasure import bodies_left

OVERDUE_SECONDS: Final = 30
DAYS_AHEAD: Final = 30
FREE_BYTES_MIN: Final = 512 * 1024 * 1024  # less is small, however little is added
_VERSIONED: Final = re.compile(r"(\w+)_v([0-9]+)")
_ADVICE: Final = "start a server; if one runs, its /readyz and its log say what fails"


def diagnose(fairlog: Fairlog) -> Iterator[DoctorFinding]:
    """Run the checks. The tables must exist. Raises `LogUnavailable`."""
    yield writes(fairlog)
    if (hosts := fairlog.database.hosts) is not None:
        yield host_in_use(hosts)
    with fairlog.database.read() as connection:
        yield due_jobs(fairlog, connection)
        yield following(fairlog, connection)
        yield size(fairlog.sizes.read_anew(connection))
        if found := erased_in_segments(connection):
            yield found


def writes(fairlog: Fairlog) -> DoctorFinding:
    """Check that the next event can be written."""
    log = fairlog.log
    try:
        with fairlog.database.write() as connection:
            head = log.lock_head(connection)
            strange = log.row_beyond_head(connection, head)
            lost = latest_lost(connection, head.position)
            if strange is None:
                log.rehearse(connection, head)
            connection.rollback()
    except Exception as error:  # noqa: BLE001 (a server would have the same error)
        return DoctorFinding(
            "writes",
            Level.ERROR,
            f"the log cannot be written: {reason_of(error)}",
            "correct the cause; running servers then continue by themselves",
        )
    if strange is not None:
        return DoctorFinding("writes", Level.ERROR, "the log cannot be written", strange)
    if lost > head.position:
        return DoctorFinding(
            "writes",
            Level.ERROR,
            f"events up to {lost} were answered, and the log ends at {head.position}",
            "bring them back (the earlier primary may have them), or run `fairlog accept-loss`",
        )
    return DoctorFinding("writes", Level.OK, "the log can be written")


def host_in_use(hosts: Hosts) -> DoctorFinding:
    """Check that the first host of the database is the one that can be used."""
    first, *_ = hosts.names
    if hosts.current == first:
        return DoctorFinding("database host", Level.OK, f"{first} can be used")
    return DoctorFinding(
        "database host",
        Level.WARNING,
        f"{first} does not answer, is read-only, or is not ready: {hosts.current} is used instead",
        "repair it; /readyz of each server names the host that it uses",
    )


def due_jobs(fairlog: Fairlog, connection: Connection) -> DoctorFinding:
    """Check that a server acts on schedules, retries and expired leases."""
    now = fairlog.log.now(connection) - timedelta(seconds=OVERDUE_SECONDS)
    if not fairlog.jobs.due(connection, to_micros(now), None, 1):
        return DoctorFinding("due jobs", Level.OK, f"no job is overdue by {OVERDUE_SECONDS} s")
    return DoctorFinding(
        "due jobs",
        Level.WARNING,
        f"jobs have been due for more than {OVERDUE_SECONDS} s, and no server acts on them",
        _ADVICE,
    )


def following(fairlog: Fairlog, connection: Connection) -> DoctorFinding:
    """Check that the asynchronous projections are not far behind the log."""
    reading = fairlog.log.reading(connection)
    quiet = (to_micros(fairlog.log.now(connection)) - reading.recorded_at) / 1e6
    behind = [
        f"{one.projection.name} by {lag:,} events"
        for one in fairlog.projector_runner.projectors
        if (lag := one.lag(connection)) > 0
    ]
    if not behind or quiet < OVERDUE_SECONDS:  # a server may be about to catch up
        return DoctorFinding("following", Level.OK, "the projections follow the log")
    return DoctorFinding(
        "following", Level.WARNING, f"behind the log: {', '.join(behind)}", _ADVICE
    )


def size(found: LogSize) -> DoctorFinding:
    """Check that neither the disk nor the size that was set will be full within `DAYS_AHEAD`."""
    soon = found.growth_per_day * DAYS_AHEAD
    text = f"{size_of(found.total)}, and a day adds {size_of(found.growth_per_day)}"
    if found.free is not None:
        text += f"; {size_of(found.free)} are free"
    if found.limit is not None:
        text += f"; size_limit_bytes is {size_of(found.limit)}"
    if found.days_left is not None:
        text += f", which is {found.days_left:,.0f} days away"
    is_full = found.limit is not None and found.total + soon > found.limit
    if not is_full and (found.free is None or found.free > max(soon, FREE_BYTES_MIN)):
        return DoctorFinding("size", Level.OK, text)
    return DoctorFinding(
        "size",
        Level.WARNING,
        text,
        "`fairlog erase --bodies-older-than` removes old payloads; else give the database a larger "
        "disk" + (", and raise size_limit_bytes" if is_full else ""),
    )


def erased_in_segments(connection: Connection) -> DoctorFinding | None:
    """Check that no body is left in a segment that was erased; None: there are no segments."""
    if not archived.segments(connection):
        return None
    left = bodies_left(connection)
    if not left:
        return DoctorFinding("archive", Level.OK, "no erased body is left in its segments")
    return DoctorFinding(
        "archive",
        Level.WARNING,
        f"erased bodies that are still in its segments: {left:,}",
        "run `fairlog archive` as usual, or `fairlog erase` with `--archive DIR`",
    )


def former_tables(fairlog: Fairlog, current: Sequence[sa.Table]) -> DoctorFinding:
    """Check that no tables of former versions of projections are left, which nothing reads.

    `current` are the tables of all projections.
    """
    versions = dict(_version_of(table.name) for table in current)
    with fairlog.database.read() as connection:
        found = sa.inspect(connection)
        former = [
            name
            for name in sorted(found.get_table_names())
            if _is_former(name, versions) and _has_generations(found, name)
        ]
        sizes = fairlog.sizes.read_anew(connection).tables
    if not former:
        return DoctorFinding("former tables", Level.OK, "there are none")
    size = sum(sizes.get(name, 0) for name in former)
    return DoctorFinding(
        "former tables",
        Level.WARNING,
        f"nothing reads {', '.join(former)}" + (f" ({size_of(size)})" if size else ""),
        "once no server of an earlier release runs, let an account that may drop tables run "
        f"DROP TABLE {', '.join(former)}",
    )


def _is_former(table: str, versions: Mapping[str, int]) -> bool:
    name, version = _version_of(table)
    return 0 < version < versions.get(name, 0)


def _has_generations(found: sa.Inspector, table: str) -> bool:
    """Return True if it is a projection's, and not a program's own table of such a name."""
    return found.get_pk_constraint(table)["constrained_columns"][:1] == ["generation"]


def _version_of(table: str) -> tuple[str, int]:
    """Return the name of a projection's table without its version, and that; 0: it has none."""
    found = _VERSIONED.fullmatch(table)
    return (found[1], int(found[2])) if found else (table, 0)
