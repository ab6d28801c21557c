"""The sentence at the top of the overview: whether work flows, and if not, what to do."""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from domain.language.identifiers import Kind
from entrypoints.dashboard.formatting import counted, duration
from projections.activity.metrics import ActivityMetrics

_MANY_FAILURES: Final = 0.2  # of the attempts that have ended
_ENOUGH_ATTEMPTS: Final = 5
_NAMED_MAX: Final = 3
_STUCK_SECONDS: Final = 60.0


class Verdict(Struct, frozen=True):
    tone: str  # ok, idle, warn or bad
    title: str
    detail: str


class UnservedKind(Struct, frozen=True):
    """A kind with waiting jobs that no living worker asks for."""

    kind: Kind
    waiting: int
    nearest: Kind | None = None  # that workers ask for, if this one may be mistyped


class Situation(Struct, frozen=True, kw_only=True):
    waiting: int  # jobs
    running: int  # jobs
    oldest_seconds: float | None  # how long the oldest waiting job has waited
    minute: ActivityMetrics  # the last minute
    minutes: ActivityMetrics  # the last five
    workers: int = 0  # that are alive
    failing: Sequence[str] = ()  # parts of the server, each with the reason: "writes: …"
    unserved: Sequence[UnservedKind] = ()
    paused: Sequence[tuple[str, int]] = ()  # "The kind “export”", and its waiting jobs


def verdict(now: Situation) -> Verdict:
    """Return the first thing that is wrong, or that work flows."""
    return next(_verdicts(now))


def _verdicts(now: Situation) -> Iterator[Verdict]:
    ended = now.minutes.completed + now.minutes.failed
    waits = f"{counted(now.waiting, 'job waits', 'jobs wait')}, the oldest for "
    waits += f"{duration(now.oldest_seconds)}"
    if now.failing:
        yield Verdict("bad", "A part of the server does not work", " ".join(now.failing))
    if now.waiting and not now.workers and not now.minute.started:
        yield Verdict(
            "bad",
            "Nothing consumes the line",
            f"{waits}, and no worker has polled in the last minute. Start one: "
            "fairlog worker --server …",
        )
    if now.unserved:
        yield _unserved(now)
    if ended >= _ENOUGH_ATTEMPTS and now.minutes.failed > _MANY_FAILURES * ended:
        yield Verdict(
            "warn",
            "Many attempts fail",
            f"{now.minutes.failed:,} of {ended:,} in the last five minutes. "
            "Failures are grouped by error below.",
        )
    if now.minute.refused:
        refused = counted(now.minute.refused, "submission was", "submissions were")
        yield Verdict(
            "warn",
            "Work is flowing, and limits refuse some of it",
            f"{refused} refused in the last minute; Limits says whose.{_paused(now)}",
        )
    is_still = not now.running and not now.minute.started
    if now.waiting and is_still and now.paused:
        yield Verdict("idle", "What waits is paused", _paused(now).strip())
    if now.waiting and is_still and (now.oldest_seconds or 0) > _STUCK_SECONDS:
        yield Verdict(
            "warn",
            "Workers poll, but no job starts",
            f"{waits}. The page of that job explains why it waits.",
        )
    if not now.waiting and is_still:
        workers = counted(now.workers, "worker waits", "workers wait")
        yield Verdict("idle", "Nothing to do", f"No job waits, and none is running. {workers}.")
    yield Verdict(
        "ok", "Work is flowing", f"{waits if now.waiting else 'No job waits'}.{_paused(now)}"
    )


def _unserved(now: Situation) -> Verdict:
    first = now.unserved[0]
    names = ", ".join(f"“{one.kind}”" for one in now.unserved[:_NAMED_MAX])
    if (more := len(now.unserved) - _NAMED_MAX) > 0:
        names += f" and {more} more"
    waiting = sum(one.waiting for one in now.unserved)
    kinds = "the kind" if len(now.unserved) == 1 else "the kinds"
    advice = "Start a worker whose handlers have them, or cancel these jobs."
    if first.nearest is not None:
        advice = f"Workers ask for “{first.nearest}”: is “{first.kind}” mistyped? " + advice
    return Verdict(
        "warn",
        f"No worker takes {kinds} {names}",
        f"{counted(waiting, 'job waits', 'jobs wait')} for one, and "
        f"{counted(now.workers, 'living worker asks', 'living workers ask')} for other kinds. "
        f"{advice}",
    )


def _paused(now: Situation) -> str:
    """Name what is paused, with a leading space; empty if nothing is."""
    sentences = [
        f" {name} is paused: {counted(number, 'job waits', 'jobs wait')}."
        for name, number in now.paused[:_NAMED_MAX]
    ]
    return f"{''.join(sentences)} Limits resumes it." if sentences else ""
