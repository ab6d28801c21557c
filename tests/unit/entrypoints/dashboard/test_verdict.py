from typing import Any

import pytest

from domain.language.identifiers import Kind
from entrypoints.dashboard.verdict import Situation, UnservedKind, verdict
from projections.activity.metrics import ActivityMetrics

NONE = ActivityMetrics()
BUSY = ActivityMetrics(started=9, completed=9)
STILL: dict[str, Any] = {"running": 0, "minute": NONE, "minutes": NONE}
FLOWING: dict[str, Any] = {"running": 1, "minute": BUSY, "minutes": BUSY, "workers": 2}


def situation(**known: Any) -> Situation:
    return Situation(**({"waiting": 0, "oldest_seconds": None} | known))


@pytest.mark.parametrize(
    ("now", "tone", "title"),
    [
        (situation(**STILL), "idle", "Nothing to do"),
        (
            situation(**STILL, failing=["writes: The database does not answer."]),
            "bad",
            "A part of the server does not work",
        ),
        (
            situation(**STILL, waiting=7, oldest_seconds=3600),
            "bad",
            "Nothing consumes the line",
        ),
        (
            situation(**FLOWING, waiting=7, unserved=[UnservedKind(Kind("export"), 4)]),
            "warn",
            "No worker takes the kind “export”",
        ),
        (
            situation(**FLOWING | {"minutes": ActivityMetrics(completed=6, failed=3)}),
            "warn",
            "Many attempts fail",
        ),
        (
            situation(**FLOWING | {"minute": ActivityMetrics(started=1, refused=4)}),
            "warn",
            "Work is flowing, and limits refuse some of it",
        ),
        (
            situation(**STILL, workers=1, waiting=3, paused=[("The kind “export”", 3)]),
            "idle",
            "What waits is paused",
        ),
        (
            situation(**STILL, workers=1, waiting=3, oldest_seconds=61),
            "warn",
            "Workers poll, but no job starts",
        ),
        (situation(**STILL, workers=1, waiting=3, oldest_seconds=1), "ok", "Work is flowing"),
        (situation(**FLOWING, waiting=3, oldest_seconds=2), "ok", "Work is flowing"),
    ],
)
def test_the_first_thing_that_is_wrong_is_said(now: Situation, tone: str, title: str) -> None:
    said = verdict(now)
    assert (said.tone, said.title) == (tone, title)


def test_an_idle_worker_beside_a_kind_that_nobody_takes_is_no_red_alarm() -> None:
    unserved = [UnservedKind(Kind("exprt"), 1, nearest=Kind("export"))]
    said = verdict(situation(**STILL, waiting=1, oldest_seconds=999, workers=1, unserved=unserved))
    assert said.tone == "warn"
    assert said.detail == (
        "1 job waits for one, and 1 living worker asks for other kinds. Workers ask for “export”: "
        "is “exprt” mistyped? Start a worker whose handlers have them, or cancel these jobs."
    )


def test_what_is_paused_is_named_while_other_work_flows() -> None:
    paused = [("The kind “export”", 1), ("The user “acme”", 2000)]
    said = verdict(situation(**FLOWING, waiting=2001, oldest_seconds=5, paused=paused))
    assert said.tone == "ok"
    assert said.detail == (
        "2,001 jobs wait, the oldest for 5.0 s. The kind “export” is paused: 1 job waits. "
        "The user “acme” is paused: 2,000 jobs wait. Limits resumes it."
    )


def test_more_than_three_kinds_without_a_worker_are_counted() -> None:
    unserved = [UnservedKind(Kind(f"kind-{number}"), 1) for number in range(5)]
    said = verdict(situation(**FLOWING, waiting=5, oldest_seconds=5, unserved=unserved))
    assert said.title == ("No worker takes the kinds “kind-0”, “kind-1”, “kind-2” and 2 more")
