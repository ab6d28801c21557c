"""The checks of `doctor` on the service: can the log be written, and is nothing behind?

Each check is one function; none writes anything.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from sqlalchemy.engine import Connection

from adapters.doctor import DoctorFinding, Level
from adapters.supervision import reason_of
from domain.language.moments import to_micros
from entrypoints.service.fairlog import Fairlog

OVERDUE_SECONDS: Final = 30
_ADVICE: Final = "start a server; if one runs, its /readyz and its log say what fails"


def diagnose(fairlog: Fairlog) -> Iterator[DoctorFinding]:
    """Run the checks. The tables must exist. Raises `LogUnavailable`."""
    yield writes(fairlog)
    with fairlog.database.read() as connection:
        yield due_jobs(fairlog, connection)
        yield following(fairlog, connection)


def writes(fairlog: Fairlog) -> DoctorFinding:
    """Check that the next event can be written."""
    log = fairlog.log
    try:
        with fairlog.database.write() as connection:
            head = log.lock_head(connection)
            strange = log.row_beyond_head(connection, head)
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
    return DoctorFinding("writes", Level.OK, "the log can be written")


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
