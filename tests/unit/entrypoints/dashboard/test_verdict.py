import pytest

from entrypoints.dashboard.verdict import Situation, verdict
from projections.activity.metrics import ActivityMetrics

NONE = ActivityMetrics()
BUSY = ActivityMetrics(started=9, completed=9)


@pytest.mark.parametrize(
    ("situation", "tone", "title"),
    [
        (
            Situation(waiting=0, running=0, oldest=None, minute=NONE, minutes=NONE),
            "idle",
            "Nothing to do",
        ),
        (
            Situation(waiting=7, running=0, oldest="1 h", minute=NONE, minutes=BUSY),
            "bad",
            "Nothing consumes the line",
        ),
        (
            Situation(
                waiting=7,
                running=2,
                oldest="1 h",
                minute=BUSY,
                minutes=BUSY,
                unconsumed=["export"],
            ),
            "warn",
            "Some work has no worker",
        ),
        (
            Situation(
                waiting=0,
                running=1,
                oldest=None,
                minute=BUSY,
                minutes=ActivityMetrics(started=9, completed=6, failed=3),
            ),
            "warn",
            "Many attempts fail",
        ),
        (
            Situation(
                waiting=0,
                running=1,
                oldest=None,
                minute=ActivityMetrics(started=1, refused=4),
                minutes=BUSY,
            ),
            "warn",
            "Work is flowing, and limits refuse some of it",
        ),
        (
            Situation(waiting=3, running=1, oldest="2 s", minute=BUSY, minutes=BUSY),
            "ok",
            "Work is flowing",
        ),
    ],
)
def test_the_first_thing_that_is_wrong_is_said(situation: Situation, tone: str, title: str) -> None:
    said = verdict(situation)
    assert (said.tone, said.title) == (tone, title)
