"""What `doctor` can see of the service itself: can the log be written, and is it kept up with?

Each check is one small function; none writes anything.
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
_LOOK_THERE: Final = "start a server; where one runs, its /readyz and its log say what fails"


def diagnose(fairlog: Fairlog) -> Iterator[DoctorFinding]:
    """For a database whose tables are there. Raises `LogUnavailable`."""
    yield writes(fairlog)
    with fairlog.database.read() as connection:
        yield due_jobs(fairlog, connection)
        yield following(fairlog, connection)


def writes(fairlog: Fairlog) -> DoctorFinding:
    """Whether the next event could be written."""
    log = fairlog.log
    try:
        with fairlog.database.write() as connection:
            head = log.lock_head(connection)
            strange = log.behind_the_end(connection, head)
            if strange is None:
                log.rehearse(connection, head)
            connection.rollback()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what a server would meet)
        return DoctorFinding(
            "writes",
            Level.ERROR,
            f"the log cannot be written: {reason_of(error)}",
            "mend that; running servers go on by themselves",
        )
    if strange is not None:
        return DoctorFinding("writes", Level.ERROR, "the log cannot be written", strange)
    return DoctorFinding("writes", Level.OK, "the log can be written")


def due_jobs(fairlog: Fairlog, connection: Connection) -> DoctorFinding:
    """Whether somebody acts on schedules, retries and lost leases."""
    now = fairlog.log.now(connection) - timedelta(seconds=OVERDUE_SECONDS)
    if not fairlog.jobs.due(connection, to_micros(now), None, 1):
        return DoctorFinding("due jobs", Level.OK, "none has been left for long")
    return DoctorFinding(
        "due jobs",
        Level.WARNING,
        f"jobs have been due for more than {OVERDUE_SECONDS} s, and no server acts on them",
        _LOOK_THERE,
    )


def following(fairlog: Fairlog, connection: Connection) -> DoctorFinding:
    """Whether the projections that follow the log come after it."""
    reading = fairlog.log.reading(connection)
    quiet = (to_micros(fairlog.log.now(connection)) - reading.recorded_at) / 1e6
    behind = [
        f"{one.projection.name} by {lag:,} events"
        for one in fairlog.following.followers
        if (lag := one.lag(connection)) > 0
    ]
    if not behind or quiet < OVERDUE_SECONDS:  # they come a moment later
        return DoctorFinding("following", Level.OK, "the projections come after the log")
    return DoctorFinding(
        "following", Level.WARNING, f"behind the log: {', '.join(behind)}", _LOOK_THERE
    )
