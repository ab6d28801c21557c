"""The one sentence at the top: is work flowing, and if not, what to do."""

from msgspec import Struct

from projections.activity_figures import Figures

_MANY_FAILURES = 0.2  # of the attempts that ended
_ENOUGH_ATTEMPTS = 5


class Verdict(Struct, frozen=True):
    tone: str  # ok, idle, warn or bad
    title: str
    detail: str


class Situation(Struct, frozen=True, kw_only=True):
    waiting: int
    running: int
    oldest: str | None  # how long the oldest waiting job has waited
    minute: Figures  # the last minute
    minutes: Figures  # the last five


def verdict(now: Situation) -> Verdict:
    ended = now.minutes.completed + now.minutes.failed
    if now.waiting and not now.running and not now.minute.started:
        return Verdict(
            "bad", "Nothing consumes the line",
            f"{now.waiting:,} jobs wait, the oldest for {now.oldest}, and none was started in the "
            "last minute. Start a worker: fairlog worker --server …",
        )  # fmt: skip
    if ended >= _ENOUGH_ATTEMPTS and now.minutes.failed > _MANY_FAILURES * ended:
        return Verdict(
            "warn", "Many attempts fail",
            f"{now.minutes.failed:,} of {ended:,} in the last five minutes. "
            "Failures are grouped by reason below.",
        )  # fmt: skip
    if now.minute.refused:
        return Verdict(
            "warn", "Work is flowing, and limits refuse some of it",
            f"{now.minute.refused:,} submissions were refused in the last minute; "
            "Limits says whose.",
        )  # fmt: skip
    if not now.waiting and not now.running and not now.minute.started:
        return Verdict("idle", "Nothing to do", "No job waits, and none is running.")
    waiting = (
        f"{now.waiting:,} jobs wait, the oldest for {now.oldest}."
        if now.waiting
        else "No job waits."
    )
    return Verdict("ok", "Work is flowing", waiting)
