"""The sentence at the top of the overview: whether work flows, and if not, what to do."""

from collections.abc import Sequence

from msgspec import Struct

from projections.activity.metrics import ActivityMetrics

_MANY_FAILURES = 0.2  # of the attempts that have ended
_ENOUGH_ATTEMPTS = 5
_KINDS_NAMED = 3


class Verdict(Struct, frozen=True):
    tone: str  # ok, idle, warn or bad
    title: str
    detail: str


class Situation(Struct, frozen=True, kw_only=True):
    waiting: int
    running: int
    oldest: str | None  # how long the oldest waiting job has waited
    minute: ActivityMetrics  # the last minute
    minutes: ActivityMetrics  # the last five
    failing: Sequence[str] = ()  # parts of the server, each with the reason: "writes: …"
    unconsumed: Sequence[str] = ()  # kinds that wait and of which none was started for an hour


def verdict(now: Situation) -> Verdict:
    if now.failing:
        return Verdict("bad", "A part of the server does not work", " ".join(now.failing))
    ended = now.minutes.completed + now.minutes.failed
    if now.waiting and not now.running and not now.minute.started:
        return Verdict(
            "bad",
            "Nothing consumes the line",
            f"{now.waiting:,} jobs wait, the oldest for {now.oldest}, and none was started in the "
            "last minute. Start a worker: fairlog worker --server …",
        )
    if now.unconsumed:
        kinds = ", ".join(now.unconsumed[:_KINDS_NAMED])
        more = f" and {len(now.unconsumed) - _KINDS_NAMED} more" * (
            len(now.unconsumed) > _KINDS_NAMED
        )
        return Verdict(
            "warn",
            "Some work has no worker",
            f"Jobs wait of kinds that no worker takes: {kinds}{more}. "
            "Start a worker whose handlers have them.",
        )
    if ended >= _ENOUGH_ATTEMPTS and now.minutes.failed > _MANY_FAILURES * ended:
        return Verdict(
            "warn",
            "Many attempts fail",
            f"{now.minutes.failed:,} of {ended:,} in the last five minutes. "
            "Failures are grouped by reason below.",
        )
    if now.minute.refused:
        return Verdict(
            "warn",
            "Work is flowing, and limits refuse some of it",
            f"{now.minute.refused:,} submissions were refused in the last minute; "
            "Limits says whose.",
        )
    if not now.waiting and not now.running and not now.minute.started:
        return Verdict("idle", "Nothing to do", "No job waits, and none is running.")
    waiting = (
        f"{now.waiting:,} jobs wait, the oldest for {now.oldest}."
        if now.waiting
        else "No job waits."
    )
    return Verdict("ok", "Work is flowing", waiting)
