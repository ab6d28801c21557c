"""Whether this server can be sent requests: what has to work for that, and what does not."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.clock import SystemClock
from adapters.log.schema import is_current
from adapters.supervision import Trouble
from domain.language.errors import FairlogError
from domain.log.log_time import ClockReading
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.queries import READ_SECONDS_MAX
from entrypoints.use_cases.clock import clock_note

# Writes, reads, the clock and the news of the log. Whatever else fails is shown, and the server
# goes on serving.
NEEDED: Final = frozenset(
    {"writes", "writer_process", "reads", "due_jobs", "log_news", "event_feed", "work_news"}
)


class FailingPart(Struct, frozen=True):
    """A part of the server that does not work now."""

    part: str
    reason: str  # a sentence
    since: datetime  # UTC, by this machine's clock


class Readiness(Struct, frozen=True):
    ready: bool
    reason: str | None = None  # why not
    note: str | None = None  # what to know of all the same
    failing: Sequence[FailingPart] = ()  # also what does not keep it from being ready


async def readiness_of(fairlog: Fairlog) -> Readiness:
    """Asks the database, unless it is known not to answer."""
    reason, note = await _asked(fairlog)
    troubles = fairlog.supervisor.troubles()
    needed = [one for one in troubles if one.part in NEEDED]
    reasons = [f"{one.part}: {one.reason}" for one in needed if one.reason != reason]
    if reason is not None:
        reasons.insert(0, reason)
    return Readiness(not reasons, " ".join(reasons) or None, note, failing(troubles))


async def _asked(fairlog: Fairlog) -> tuple[str | None, str | None]:
    """Why it is not ready, and what to know of all the same."""
    if fairlog.writer.fatal is not None:
        return str(fairlog.writer.fatal), None
    if not fairlog.is_recovered:
        return "Recovery is not done yet.", None
    if any(one.part == "reads" for one in fairlog.supervisor.troubles()):
        return None, None  # its own reason says it, and asking again could take some seconds
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):  # a statement that began may wait for longer
            if not await fairlog.read(lambda _: is_current(fairlog.database)):
                return "The schema is not current; run `fairlog migrate`.", None
            looked = await fairlog.read(lambda connection: _looked(fairlog, connection))
            return None, clock_note(looked)
    except TimeoutError:
        return "The database does not answer a short question; is a table of it locked?", None
    except FairlogError as error:
        return str(error), None


def _looked(fairlog: Fairlog, connection: Connection) -> ClockReading:
    fairlog.jobs.counts(connection)
    return fairlog.log.reading(connection)


def failing(troubles: Sequence[Trouble]) -> list[FailingPart]:
    now = SystemClock().now()
    return [
        FailingPart(one.part, one.reason, now - timedelta(seconds=one.seconds)) for one in troubles
    ]
