"""The log's time, whatever its clock does."""

from datetime import timedelta

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.language.bodies import body_of
from domain.language.commands import SubmitJob
from domain.language.errors import ClockInDoubt
from domain.language.events import ClockCorrected, CorrectionReason
from domain.language.identifiers import Kind, UserId
from domain.language.moments import to_micros
from domain.log.log_time import (
    SECOND_LOOK_SECONDS,
    STEP_SECONDS_MIN,
    ClockReading,
    Correction,
    LogTime,
    TimeKeeper,
    by_log_time,
    correction_of,
)
from tests.support.given import NOW

HOUR, DAY = 3600.0, 86_400.0


class Log:
    """A log that events are appended to, its clock, and the time that really goes by."""

    def __init__(self) -> None:
        self.real = 0.0
        self.offset = 0.0  # of the clock from what it should show
        self.recorded_at = to_micros(NOW)
        self.correction = Correction()
        self.position = 0
        self.reasons: list[CorrectionReason] = []

    def passes(self, seconds: float) -> None:
        self.real += seconds

    @property
    def clock(self) -> int:
        return to_micros(NOW) + round((self.real + self.offset) * 1e6)

    @property
    def reading(self) -> ClockReading:
        return ClockReading(self.clock, self.recorded_at, self.correction)

    def append(self, keeper: TimeKeeper) -> float:
        """Return the time of recording, in seconds since the beginning. Raises `ClockInDoubt`."""
        return self._record(keeper.judge(self.reading, self.real))

    def accept(self, keeper: TimeKeeper) -> float:
        return self._record(keeper.accept(self.reading))

    def append_after_doubt(self, keeper: TimeKeeper) -> float:
        with pytest.raises(ClockInDoubt):
            self.append(keeper)
        self.passes(SECOND_LOOK_SECONDS)
        return self.append(keeper)

    def _record(self, judged: LogTime) -> float:
        assert judged.now >= self.recorded_at, "it never goes back"
        self.position += 1
        if judged.corrected is not None:
            self.correction = correction_of(self.position, judged.corrected)
            self.reasons.append(judged.corrected.reason)
            assert to_micros(judged.corrected.clock) + judged.corrected.offset_micros <= judged.now
        self.recorded_at = judged.now
        return (judged.now - to_micros(NOW)) / 1e6


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def keeper(log: Log) -> TimeKeeper:
    """One that has written."""
    keeper = TimeKeeper()
    log.append(keeper)
    return keeper


@pytest.mark.parametrize("step", [DAY, 3 * HOUR, -3 * HOUR, STEP_SECONDS_MIN + 0.01])
def test_nothing_is_written_with_a_clock_that_is_wrong_for_a_moment(
    log: Log, keeper: TimeKeeper, step: float
) -> None:
    log.offset = step
    with pytest.raises(ClockInDoubt):
        log.append(keeper)
    log.offset = 0
    log.passes(0.5)
    assert log.append(keeper) == 0.5
    assert log.reasons == []


@pytest.mark.parametrize("step", [DAY, 3 * HOUR, -3 * HOUR])
def test_the_log_s_time_goes_on_evenly_while_the_clock_is_wrong_and_after_it(
    log: Log, keeper: TimeKeeper, step: float
) -> None:
    log.passes(10)
    log.offset = step
    assert log.append_after_doubt(keeper) == 11
    log.passes(HOUR)
    assert log.append(keeper) == HOUR + 11
    log.offset = 0
    assert log.append_after_doubt(keeper) == HOUR + 12
    log.passes(60)
    assert log.append(keeper) == HOUR + 72
    assert log.correction.offset == 0
    assert log.reasons == [CorrectionReason.STEPPED] * 2


def test_a_clock_that_steps_again_is_looked_at_twice_again(log: Log, keeper: TimeKeeper) -> None:
    for step in (DAY, HOUR, 2 * HOUR):
        log.offset = step
        with pytest.raises(ClockInDoubt):
            log.append(keeper)
        log.passes(SECOND_LOOK_SECONDS)
    assert log.append(keeper) == 3


def test_a_small_step_is_taken_as_it_is(log: Log, keeper: TimeKeeper) -> None:
    log.offset = STEP_SECONDS_MIN - 0.5
    assert log.append(keeper) == STEP_SECONDS_MIN - 0.5
    log.offset = 0
    assert log.append(keeper) == STEP_SECONDS_MIN - 0.5  # and stands still for so long
    log.passes(STEP_SECONDS_MIN)
    assert log.append(keeper) == STEP_SECONDS_MIN


def test_clocks_that_drift_apart_over_days_are_believed(log: Log, keeper: TimeKeeper) -> None:
    log.passes(DAY)
    log.offset = 40
    assert log.append(keeper) == DAY + 40


def test_after_a_long_time_without_a_server_the_clock_is_believed(log: Log) -> None:
    log.passes(30 * DAY)
    assert log.append(TimeKeeper()) == 30 * DAY


def test_a_log_that_is_ahead_of_the_clock_goes_on_from_where_it_ends(log: Log) -> None:
    log.offset = DAY
    assert log.append(TimeKeeper()) == DAY  # a start has nothing to hold the clock against
    log.offset = 0
    keeper = TimeKeeper()
    assert log.append_after_doubt(keeper) == DAY
    log.passes(60)
    assert log.append(keeper) == DAY + 60
    assert log.reasons == [CorrectionReason.LOG_AHEAD]


def test_what_another_writer_recorded_of_the_clock_is_believed(
    log: Log, keeper: TimeKeeper
) -> None:
    other = TimeKeeper()
    log.append(other)
    log.offset = DAY
    log.append_after_doubt(other)
    assert log.append(keeper) == 1
    log.passes(5)
    assert log.append(keeper) == 6


def test_a_correction_that_was_not_written_is_made_again(log: Log, keeper: TimeKeeper) -> None:
    log.offset = DAY
    with pytest.raises(ClockInDoubt):
        log.append(keeper)
    log.passes(SECOND_LOOK_SECONDS)
    assert keeper.judge(log.reading, log.real).corrected is not None  # and rolled back
    log.passes(1)
    assert log.append(keeper) == SECOND_LOOK_SECONDS + 1
    assert log.reasons == [CorrectionReason.STEPPED]


def test_a_clock_that_is_accepted_is_the_log_s_time_at_once_where_it_is_later(
    log: Log, keeper: TimeKeeper
) -> None:
    log.offset = DAY
    log.append_after_doubt(keeper)
    assert log.accept(keeper) == DAY + 1
    log.passes(1)
    assert log.append(keeper) == DAY + 2
    assert log.accept(keeper) == DAY + 2
    assert log.reasons == [CorrectionReason.STEPPED, CorrectionReason.ACCEPTED]


def test_a_log_ahead_of_a_clock_that_is_accepted_approaches_it(log: Log) -> None:
    log.offset = HOUR
    log.append(TimeKeeper())
    log.offset = 0
    keeper = TimeKeeper()
    assert log.accept(keeper) == HOUR
    log.passes(100)
    assert log.append(keeper) == HOUR + 90
    log.passes(10 * HOUR)
    assert log.append(keeper) == 10 * HOUR + 100
    log.passes(60)
    assert log.append(keeper) == 10 * HOUR + 160


def test_times_of_day_are_the_clock_s_while_the_log_approaches_it(log: Log) -> None:
    log.offset = HOUR
    log.append(TimeKeeper())
    log.offset = 0
    keeper = TimeKeeper()
    log.accept(keeper)
    wanted = SubmitJob(
        user_id=UserId("u"),
        kind=Kind("k"),
        payload=body_of(None, "the payload"),
        run_at=NOW + timedelta(seconds=600),
    )
    shifted = by_log_time(wanted, log.correction)
    log.passes(599)
    log.append(keeper)
    assert shifted.run_at is not None
    assert log.recorded_at < to_micros(shifted.run_at)
    log.passes(1)
    log.append(keeper)
    assert log.recorded_at == to_micros(shifted.run_at)
    assert shifted.expires_at is None


def test_a_start_long_after_a_log_was_ahead_takes_the_clock(log: Log) -> None:
    log.offset = HOUR
    log.append(TimeKeeper())
    log.offset = 0
    log.append_after_doubt(TimeKeeper())
    log.passes(3 * HOUR)
    assert log.append(TimeKeeper()) == 3 * HOUR + 1
    assert log.reasons[-1] is CorrectionReason.CAUGHT_UP


steps = st.tuples(
    st.sampled_from(["passes", "steps", "restarts", "accepts", "writes"]),
    st.floats(-2 * DAY, 2 * DAY).map(lambda seconds: round(seconds, 3)),
    st.integers(0, 1),
)


@for_all(steps=st.lists(steps, max_size=40))
def test_recorded_times_never_go_back_and_never_stand_still_for_long(
    steps: list[tuple[str, float, int]],
) -> None:
    log, keepers = Log(), [TimeKeeper(), TimeKeeper()]
    for what, seconds, which in steps:
        if what == "steps":
            log.offset = seconds
        elif what == "restarts":
            keepers[which] = TimeKeeper()
        elif what == "accepts":
            log.accept(keepers[which])
        elif what == "passes":
            log.passes(abs(seconds))
        write(log, keepers[which])
    before = write(log, keepers[0])
    log.passes(60)
    assert write(log, keepers[0]) - before >= 60 * 0.9 - STEP_SECONDS_MIN


def write(log: Log, keeper: TimeKeeper) -> float:
    """Try again until it is written, as the writer does."""
    for _ in range(4):
        try:
            return log.append(keeper)
        except ClockInDoubt:
            log.passes(SECOND_LOOK_SECONDS)
    raise AssertionError("the doubt does not end")


def test_an_event_says_how_far_it_is_from_the_clock() -> None:
    event = ClockCorrected(
        reason=CorrectionReason.STEPPED, clock=NOW, offset_micros=-5_000_000, slew_ppm=0
    )
    assert correction_of(7, event).at(to_micros(NOW)) == to_micros(NOW) - 5_000_000
