"""The log's time: the database's clock, unless that stepped; then as far from it as the log says.

`recorded_at` never goes back, and windows, leases, schedules and retries go by it. A clock that is
wrong for a moment would otherwise stop all of them until the wrong time has come. So the log's time
goes on evenly: a step of the clock against the writer's own monotonic clock is looked at twice, and
if it stays, the difference is recorded as `ClockCorrected`, which every process reads.

Times in here are whole microseconds since the epoch; `elapsed` is in seconds.
"""

from datetime import datetime
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from domain.language.commands import SubmitJob
from domain.language.errors import ClockInDoubt
from domain.language.events import ClockCorrected, CorrectionReason
from domain.language.moments import from_micros, to_micros

# A step beyond it is doubted, and so much may lie between the clock and the log without a word.
STEP_SECONDS_MIN: Final = 5.0
# The two clocks run apart by so much of the time that passes, at worst.
DRIFT: Final = 0.001
SECOND_LOOK_SECONDS: Final = 1.0
# How fast the log's time approaches a clock that it is ahead of, once that is known to be right:
# parts in a million of the time that passes. Leases and windows take a tenth longer meanwhile.
SLEW_PPM: Final = 100_000

_STEP: Final = int(STEP_SECONDS_MIN * 1_000_000)


class Correction(Struct, frozen=True, gc=False):
    """What the latest `ClockCorrected` says, or nothing."""

    position: int = 0  # of the event; 0: there is none
    offset: int = 0  # the log's time less the clock's, when that showed `clock`
    clock: int = 0
    slew_ppm: int = 0

    def at(self, clock: int) -> int:
        """The log's time when the database's clock shows `clock`, also for a time to come."""
        if self.slew_ppm and self.offset > 0:
            gone = max(0, clock - self.clock) * self.slew_ppm // 1_000_000
            return clock + max(0, self.offset - gone)
        return clock + self.offset

    @property
    def trusts_clock(self) -> bool:
        """Whether times of day are the clock's, and the log's are shifted."""
        return self.slew_ppm > 0 and self.offset > 0


def by_log_time(command: SubmitJob, correction: Correction) -> SubmitJob:
    """The same submission with its times of day as the log's time will show them."""
    return replace(
        command,
        run_at=_shifted(command.run_at, correction),
        expires_at=_shifted(command.expires_at, correction),
    )


def _shifted(moment: datetime | None, correction: Correction) -> datetime | None:
    return None if moment is None else from_micros(correction.at(to_micros(moment)))


def correction_of(position: int, event: ClockCorrected) -> Correction:
    return Correction(position, event.offset_micros, to_micros(event.clock), event.slew_ppm)


class ClockReading(NamedTuple):
    """The database's clock, with the head of the log at the same moment."""

    clock: int
    recorded_at: int  # of the latest event
    correction: Correction

    @property
    def now(self) -> int:
        """The log's time."""
        return max(self.correction.at(self.clock), self.recorded_at)

    @property
    def seconds_ahead(self) -> float:
        """By how much the log's time is ahead of the clock; negative where it is behind."""
        return (self.now - self.clock) / 1e6


class LogTime(NamedTuple):
    now: int  # the log's time
    corrected: ClockCorrected | None  # to be recorded first, at `now`


class _Doubt(NamedTuple):
    """A reading that was not believed at once."""

    why: CorrectionReason
    step: float  # the clock's reading less the elapsed time, in seconds
    since: float  # elapsed


class _Reference(NamedTuple):
    clock: int
    elapsed: float
    corrected_at: int


class TimeKeeper:
    """One for each writer. It believes what it has recorded when it reads it, and not before."""

    def __init__(self) -> None:
        self._reference: _Reference | None = None
        self._doubt: _Doubt | None = None

    def judge(self, reading: ClockReading, elapsed: float) -> LogTime:
        """Say what time it is for the batch that is about to be written.

        `elapsed` is this process's own time, which only grows and counts sleep too. Raises
        `ClockInDoubt` at the first look at a step.
        """
        reference = self._reference
        if reference is None or reference.corrected_at != reading.correction.position:
            return self._judge_by_log(reading, elapsed, is_first=reference is None)
        passed = elapsed - reference.elapsed
        stepped = (reading.clock - reference.clock) / 1e6 - passed
        if abs(stepped) > STEP_SECONDS_MIN + DRIFT * passed:
            self._look_twice(CorrectionReason.STEPPED, reading, elapsed)
            believed = reference.clock + int(passed * 1e6)
            goes_on_at = max(reading.correction.at(believed), reading.recorded_at)
            return _corrected(reading, goes_on_at, CorrectionReason.STEPPED)
        return self._judge_by_log(reading, elapsed, is_first=False)

    def accept(self, reading: ClockReading) -> LogTime:
        """The clock is right, says somebody who knows: the log's time goes on by it, at once where
        that is later, and else approaches it.
        """
        self._doubt = None
        correction = reading.correction
        follows = correction.at(reading.clock) >= reading.recorded_at - _STEP
        if follows and (correction.trusts_clock or not correction.offset):
            return LogTime(reading.now, None)
        if reading.clock >= reading.recorded_at:
            return _corrected(reading, reading.clock, CorrectionReason.ACCEPTED)
        return _corrected(reading, reading.recorded_at, CorrectionReason.ACCEPTED, SLEW_PPM)

    def _judge_by_log(self, reading: ClockReading, elapsed: float, *, is_first: bool) -> LogTime:
        """A reading that there is nothing to hold against but the log. One far behind the log's end
        is doubted, and one far ahead is as after any pause.
        """
        shown = reading.correction.at(reading.clock)
        if shown < reading.recorded_at - _STEP:
            self._look_twice(CorrectionReason.LOG_AHEAD, reading, elapsed)
            goes_on_at = max(reading.recorded_at, reading.clock)
            return _corrected(reading, goes_on_at, CorrectionReason.LOG_AHEAD)
        self._doubt = None
        self._reference = _Reference(reading.clock, elapsed, reading.correction.position)
        if is_first and shown > reading.clock >= reading.recorded_at:
            # Nobody has written for longer than the log was ahead.
            return _corrected(reading, reading.clock, CorrectionReason.CAUGHT_UP)
        return LogTime(reading.now, None)

    def _look_twice(self, why: CorrectionReason, reading: ClockReading, elapsed: float) -> None:
        """Raises `ClockInDoubt` until the clock has shown the same for long enough."""
        step = reading.clock / 1e6 - elapsed
        doubt = self._doubt
        if doubt is None or doubt.why is not why or abs(step - doubt.step) > STEP_SECONDS_MIN:
            doubt = self._doubt = _Doubt(why, step, elapsed)
        if elapsed - doubt.since < SECOND_LOOK_SECONDS:
            raise ClockInDoubt(from_micros(reading.clock), from_micros(reading.recorded_at))


def _corrected(
    reading: ClockReading, goes_on_at: int, reason: CorrectionReason, slew_ppm: int = 0
) -> LogTime:
    offset = goes_on_at - reading.clock
    if abs(offset) <= _STEP and reading.clock + _STEP >= reading.recorded_at:
        offset = 0  # the clock is what it was before all this, or nearly
    now = max(reading.clock + offset, reading.recorded_at)
    event = ClockCorrected(
        reason=reason,
        clock=from_micros(reading.clock),
        offset_micros=offset,
        slew_ppm=slew_ppm if offset > 0 else 0,
    )
    return LogTime(now, event)
