"""Finds out whether this server can take requests, and which of its parts fail."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy.engine import Connection

from adapters.clock import SystemClock
from adapters.log.schema import is_current
from adapters.supervision import Trouble
from domain.language.errors import FairlogError
from domain.language.ranges import Time
from domain.log.log_time import ClockReading
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.queries import READ_SECONDS_MAX
from entrypoints.use_cases.clock import clock_note

# The parts that a server needs in order to be ready. Failures of others are only shown.
NEEDED: Final = frozenset(
    {"writes", "writer_process", "reads", "due_jobs", "log_news", "event_feed", "work_news"}
)


class FailingPart(Struct, frozen=True):
    """A part of the server that does not work now."""

    part: Annotated[str, Meta(description="The name of the part.")]
    reason: Annotated[str, Meta(description="Why it fails, a sentence.")]
    since: Annotated[Time, Meta(description="Since when, UTC, by the server's own clock.")]


class Readiness(Struct, frozen=True):
    """The answer of /readyz."""

    ready: Annotated[bool, Meta(description="Whether the server can be sent requests.")]
    reason: Annotated[str | None, Meta(description="Why it is not ready, or null.")] = None
    note: Annotated[
        str | None,
        Meta(description="How the log's time differs from the database's clock, or null."),
    ] = None
    failing: Annotated[
        Sequence[FailingPart],
        Meta(description="All parts that fail, also those that do not keep it from being ready."),
    ] = ()
    database_host: Annotated[
        str | UnsetType,
        Meta(description="Of several hosts of the database, the one in use, with its port."),
    ] = UNSET


async def readiness_of(fairlog: Fairlog) -> Readiness:
    """Check the server, and the database unless it is known not to answer."""
    reason, note = await _check(fairlog)
    troubles = fairlog.supervisor.troubles()
    needed = [one for one in troubles if one.part in NEEDED]
    reasons = [f"{one.part}: {one.reason}" for one in needed if one.reason != reason]
    if reason is not None:
        reasons.insert(0, reason)
    hosts = fairlog.database.hosts
    return Readiness(
        not reasons,
        " ".join(reasons) or None,
        note,
        failing(troubles),
        UNSET if hosts is None else hosts.current,
    )


async def _check(fairlog: Fairlog) -> tuple[str | None, str | None]:
    """Return the reason why it is not ready, and the note, if any."""
    if fairlog.writer.fatal is not None:
        return str(fairlog.writer.fatal), None
    if not fairlog.is_recovered:
        return "Recovery has not finished yet.", None
    if any(one.part == "reads" for one in fairlog.supervisor.troubles()):
        return None, None  # that part has the reason, and a further query could take seconds
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):  # a statement that began may wait for longer
            if not await fairlog.read(lambda _: is_current(fairlog.database)):
                return "The schema is not current; run `fairlog migrate`.", None
            reading = await fairlog.read(lambda connection: _read(fairlog, connection))
            return None, clock_note(reading)
    except TimeoutError:
        return "The database does not answer a short query; is a table locked?", None
    except FairlogError as error:
        return str(error), None


def _read(fairlog: Fairlog, connection: Connection) -> ClockReading:
    fairlog.jobs.counts(connection)
    return fairlog.log.reading(connection)


def failing(troubles: Sequence[Trouble]) -> list[FailingPart]:
    """Return the failing parts, each with the time when it began to fail."""
    now = SystemClock().now()
    return [
        FailingPart(one.part, one.reason, now - timedelta(seconds=one.seconds)) for one in troubles
    ]
