"""Replays the recorded starts of some time under other throttles and weights."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.histories import of_types
from domain.audit.start_outcomes import StartOutcome, outcomes
from domain.audit.start_replay import OtherStarts, StartReplay
from domain.audit.waits import Waits
from domain.fairness.known_line import KnownLine
from domain.fairness.line import Line
from domain.language.errors import InvalidInput
from domain.language.events import Recorded
from domain.language.identifiers import UserId
from domain.language.moments import UNIX_EPOCH
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.whatif import Progress

WAITS_MAX: Final = 500_000  # in memory, about 1 KB each
_TYPES: Final = (
    *("JobSubmitted", "JobReleased", "JobStarted", "JobCompleted", "JobFailed", "AttemptEnded"),
    *("JobRequeued", "JobCancelled", "LimitChanged", "PlanDeleted", "LineUpdated"),
)
_EVENTS_PER_REPORT: Final = 5_000


class StartsResult(Struct, frozen=True):
    """The starts under other limits."""

    users: Mapping[UserId, StartOutcome]  # all whose jobs waited or started in that time
    events: int  # events of the log in that time


def what_if_starts(
    fairlog: Fairlog,
    connection: Connection,
    other: OtherStarts,
    since: datetime | None,
    until: datetime | None,
    progress: Progress = lambda _done, _total: None,
) -> StartsResult:
    """Replay the starts that were recorded from `since` (inclusive) to `until` (exclusive).

    None: from the beginning, or to the current end of the log. Which jobs wait at `since` follows
    from all events before. Raises `InvalidInput` if too many jobs waited in that time, or if a part
    of the log is archived.
    """
    head = fairlog.log.position(connection)
    if cut := fairlog.log.cut(connection).position:
        raise InvalidInput(
            f"The log is archived up to position {cut}, and a replay of starts needs all of it: "
            "restore it into another database with `fairlog restore`, and ask there."
        )
    begin = 0 if since is None else audit_log.first_at(connection, since) - 1
    end = head if until is None else audit_log.first_at(connection, until) - 1
    total = begin + 2 * max(0, end - begin)
    read = _Reader(connection, progress, total)
    line, waits = Line(KnownLine()), Waits()
    for number, recorded in enumerate(read.events(0, begin)):
        line.limits.evolve(recorded)
        line.evolve(recorded)
        waits.evolve(recorded)
        if number % _EVENTS_PER_REPORT == 0:
            line.forget_idle()
    waits.begin()
    last = since or UNIX_EPOCH
    for recorded in read.events(begin, end):
        waits.evolve(recorded)
        last = recorded.recorded_at
        if len(waits.waits) > WAITS_MAX:
            raise InvalidInput(
                f"More than {WAITS_MAX:,} jobs waited in that time, which is too many to replay at "
                "once: choose a shorter time with --since and --until."
            )
    until = until or last + timedelta(microseconds=1)
    replay = StartReplay(line, other, waits.waits, begin, since or UNIX_EPOCH, until)
    for recorded in read.events(begin, end):
        replay.take(recorded)
    replay.finish()
    return StartsResult(outcomes(waits.waits, replay.replayed, begin, until), max(0, end - begin))


class _Reader:
    """Reads events, some of them twice, and reports how far it is."""

    def __init__(self, connection: Connection, progress: Progress, total: int) -> None:
        self._connection = connection
        self._progress = progress
        self._total = total
        self._before = 0  # positions of the ranges that were read

    def events(self, after: int, up_to: int) -> Iterator[Recorded]:
        for number, recorded in enumerate(of_types(self._connection, _TYPES, after, up_to)):
            yield recorded
            if number % _EVENTS_PER_REPORT == 0:
                self._progress(self._before + recorded.position - after, self._total)
        self._before += max(0, up_to - after)
