"""A job's time-line, folded from its events: the time in each state, and the attempts."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from domain.jobs.job import ENDED
from domain.jobs.job_fold import is_due
from domain.language.events import (
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    Recorded,
)


class Stretch(Struct):
    """The time from one change of the job's state to the next; `until` is None while it lasts."""

    state: str
    since: datetime
    until: datetime | None = None


class AttemptBar(Struct):
    number: int
    worker: str
    key: str | None  # the API key that claimed it
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = "running"
    error_position: int | None = None  # where the body is


class Timeline(Struct):
    stretches: list[Stretch]
    attempts: list[AttemptBar]


def timeline(events: Sequence[Recorded]) -> Timeline:
    """Fold the events of one job, in the order of the log; the first is its submission."""
    line = Timeline([], [])
    for recorded in events:
        _add(line, recorded)
    return line


def _add(line: Timeline, recorded: Recorded) -> None:
    at = recorded.recorded_at
    match recorded.event:
        case JobSubmitted() as event:
            _enter(line, "queued" if is_due(event, at) else "scheduled", at)
        case JobReleased():
            _enter(line, "queued", at)
        case JobStarted() as event:
            _enter(line, "running", at)
            line.attempts.append(AttemptBar(event.attempt, event.worker, event.by, at))
        case JobCompleted():
            _end(line, at, "done")
            _enter(line, "done", at)
        case JobFailed() as event:
            body = recorded.position if event.error_sha256 is not None else None
            _end(line, at, str(event.reason).replace("_", " "), body)
            _enter(line, "failed" if event.retry_at is None else "scheduled", at)
        case JobRequeued() as event:
            _end(line, at, str(event.reason).replace("_", " "))
            _enter(line, "scheduled" if event.waits else "queued", at)
        case JobCancelled():
            _end(line, at, "cancelled")
            _enter(line, "cancelled", at)
        case _:
            pass


def _enter(line: Timeline, state: str, at: datetime) -> None:
    if line.stretches:
        line.stretches[-1].until = at
    line.stretches.append(Stretch(state, at))


def _end(line: Timeline, at: datetime, outcome: str, error_position: int | None = None) -> None:
    """End the running attempt, if there is one."""
    if line.attempts and line.attempts[-1].ended_at is None:
        attempt = line.attempts[-1]
        attempt.ended_at, attempt.outcome, attempt.error_position = at, outcome, error_position


class StateTotal(Struct, frozen=True):
    """All the time that a job was in one state."""

    state: str
    times: int
    seconds: float


def totals(stretches: Sequence[Stretch], now: datetime) -> list[StateTotal]:
    """Return each state once, in the order of its first stretch. A final state takes no time."""
    found: dict[str, StateTotal] = {}
    for one in stretches:
        if one.until is None and one.state in ENDED:
            continue
        seconds = max(0.0, ((one.until or now) - one.since).total_seconds())
        before = found.get(one.state, StateTotal(one.state, 0, 0.0))
        found[one.state] = StateTotal(one.state, before.times + 1, before.seconds + seconds)
    return list(found.values())


class Bar(Struct, frozen=True):
    """A stretch as it is drawn: from `x`, `width` wide, of `WIDTH` in all."""

    state: str
    x: float
    width: float
    seconds: float


WIDTH = 1000.0
_NARROWEST = 6.0  # a stretch too short to be seen is drawn so wide


def bars(stretches: Sequence[Stretch], now: datetime) -> list[Bar]:
    """Draw to scale, except for stretches that would be too narrow. A final state takes no time."""
    drawn = [one for one in stretches if not (one.until is None and one.state in ENDED)]
    seconds = [max(0.0, ((one.until or now) - one.since).total_seconds()) for one in drawn]
    if not drawn:
        return []
    scale = (WIDTH - _NARROWEST * len(drawn)) / (sum(seconds) or 1.0)
    found, x = [], 0.0
    for one, length in zip(drawn, seconds, strict=True):
        width = _NARROWEST + length * max(0.0, scale)
        found.append(Bar(one.state, round(x, 1), round(width, 1), length))
        x += width
    return found
