"""A job's time-line, from its events alone."""

from datetime import timedelta

from domain.language.events import (
    Event,
    FailureReason,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobStarted,
    JobSubmitted,
    Recorded,
)
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from entrypoints.dashboard.timeline import WIDTH, StateTotal, Timeline, bars, timeline, totals
from tests.support.given import NOW, at

ALICE, ECHO = UserId("alice"), Kind("echo")
SUBMITTED = JobSubmitted(
    user_id=ALICE,
    kind=ECHO,
    payload_sha256="",
    payload_bytes=0,
    max_attempts=3,
    idempotency_key="",
    key_expires_at=at(100),
)


def started(attempt: int) -> JobStarted:
    return JobStarted(
        user_id=ALICE, kind=ECHO, attempt=attempt, worker=WorkerId("w"), lease_expires_at=at(100)
    )


def failed(attempt: int, retry_in: float | None) -> JobFailed:
    return JobFailed(
        user_id=ALICE,
        kind=ECHO,
        attempt=attempt,
        reason=FailureReason.ERROR,
        error_sha256="ab",
        retry_at=None if retry_in is None else at(retry_in),
    )


def timeline_of(*events: tuple[float, Event]) -> Timeline:
    """Each with the seconds behind NOW at which it was recorded."""
    return timeline(
        [
            Recorded(number, at(seconds), JobId(1), event)
            for number, (seconds, event) in enumerate(events, 1)
        ]
    )


def test_every_stretch_begins_where_the_one_before_ended() -> None:
    line = timeline_of(
        (0, SUBMITTED),
        (2, started(1)),
        (5, failed(1, 7)),
        (7, JobReleased(user_id=ALICE, kind=ECHO)),
        (8, started(2)),
        (10, JobCompleted(user_id=ALICE, kind=ECHO, attempt=2)),
    )
    assert [
        (one.state, (one.since - NOW).total_seconds(), one.until and (one.until - one.since))
        for one in line.stretches
    ] == [
        ("queued", 0, timedelta(seconds=2)),
        ("running", 2, timedelta(seconds=3)),
        ("scheduled", 5, timedelta(seconds=2)),
        ("queued", 7, timedelta(seconds=1)),
        ("running", 8, timedelta(seconds=2)),
        ("done", 10, None),
    ]
    assert [(one.number, one.outcome, one.error_position) for one in line.attempts] == [
        (1, "error", 3),
        (2, "done", None),
    ]


def test_bars_are_to_scale_and_fill_the_width() -> None:
    line = timeline_of((0, SUBMITTED), (30, started(1)), (90, failed(1, None)))
    drawn = bars(line.stretches, at(500))
    assert [one.state for one in drawn] == ["queued", "running"]
    assert abs(drawn[1].width / drawn[0].width - 2) < 0.05
    assert abs(drawn[-1].x + drawn[-1].width - WIDTH) < 1


def test_a_stretch_of_no_time_can_still_be_seen() -> None:
    line = timeline_of((0, SUBMITTED), (0, started(1)))
    drawn = bars(line.stretches, at(3600))
    assert drawn[0].width >= 6


def test_the_legend_has_each_state_once() -> None:
    line = timeline_of(
        (0, SUBMITTED),
        (2, started(1)),
        (5, failed(1, 7)),
        (7, JobReleased(user_id=ALICE, kind=ECHO)),
        (8, started(2)),
        (10, failed(2, None)),
    )
    assert totals(line.stretches, at(500)) == [
        StateTotal("queued", 2, 3.0),
        StateTotal("running", 2, 5.0),
        StateTotal("scheduled", 1, 2.0),
    ]
