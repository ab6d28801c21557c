"""The log's time: the database's clock plus an offset, which the log records when the clock steps.

`recorded_at` never goes back, and windows, leases, schedules and retries depend on it. A clock that
is ahead for a moment would otherwise stop all of them until its wrong time is reached. So the log's
time goes on evenly: when the clock steps against the writer's own monotonic clock, it is read a
second time, and if the step persists, the difference is recorded as `ClockCorrected`, which every
process reads.

Times are Unix times in whole microseconds, unless noted; `elapsed` is in seconds.
"""

from datetime import datetime
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from domain.language.commands import SubmitJob
from domain.language.errors import ClockInDoubt
from domain.language.events import ClockCorrected, CorrectionReason
from domain.language.idempotency import digest_of
from domain.language.moments import from_micros, to_micros

# The smallest difference that counts as a step, between two clocks or the clock and the log.
STEP_SECONDS_MIN: Final = 5.0
DRIFT: Final = 0.001  # of the time that passes: the worst drift between the two clocks
SECOND_LOOK_SECONDS: Final = 1.0  # from the first reading of a step to one that confirms it
# Rate at which the log's time approaches a confirmed clock that is behind it, in parts per million
# of the time that passes. Leases and windows take a tenth longer meanwhile.
SLEW_PPM: Final = 100_000

_STEP: Final = int(STEP_SECONDS_MIN * 1_000_000)


class Correction(Struct, frozen=True, gc=False):
    """The latest `ClockCorrected`; the default: there is none."""

    position: int = 0  # of the event; 0: there is none
    offset: int = 0  # the log's time less the clock's, when that showed `clock`
    clock: int = 0
    slew_ppm: int = 0  # see `ClockCorrected`

    def at(self, clock: int) -> int:
        """Return the log's time when the database's clock shows `clock`, which may be later."""
        if self.slew_ppm and self.offset > 0:
            gone = max(0, clock - self.clock) * self.slew_ppm // 1_000_000
            return clock + max(0, self.offset - gone)
        return clock + self.offset

    @property
    def trusts_clock(self) -> bool:
        """True if times that users give are the clock's and have to be shifted to the log's."""
        return self.slew_ppm > 0 and self.offset > 0


def by_log_time(command: SubmitJob, correction: Correction) -> SubmitJob:
    """Return the submission with its times shifted from the clock's to the log's.

    Its digest is still that of the times as they were sent, which a repetition sends again.
    """
    return replace(
        command,
        digest=digest_of(command),
        run_at=_shifted(command.run_at, correction),
        expires_at=_shifted(command.expires_at, correction),
    )


def _shifted(moment: datetime | None, correction: Correction) -> datetime | None:
    return None if moment is None else from_micros(correction.at(to_micros(moment)))


def correction_of(position: int, event: ClockCorrected) -> Correction:
    return Correction(position, event.offset_micros, to_micros(event.clock), event.slew_ppm)


class ClockReading(NamedTuple):
    """A reading of the database's clock, with the head of the log at the same moment."""

    clock: int
    recorded_at: int  # of the latest event
    correction: Correction

    @property
    def now(self) -> int:
        """The log's time."""
        return max(self.correction.at(self.clock), self.recorded_at)

    @property
    def seconds_ahead(self) -> float:
        """The log's time less the clock's; negative if it is behind."""
        return (self.now - self.clock) / 1e6


class LogTime(NamedTuple):
    """The log's time for a batch."""

    now: int
    corrected: ClockCorrected | None  # to be recorded first, at `now`


class _Doubt(NamedTuple):
    """A possible step, until a second reading confirms it."""

    reason: CorrectionReason
    step: float  # the clock's reading less the elapsed time, in seconds
    since: float  # elapsed


class _Reference(NamedTuple):
    """A reading that was accepted, to compare later ones with."""

    clock: int
    elapsed: float
    corrected_at: int


class TimeKeeper:
    """Detects steps of the clock, one instance per writer.

    A correction counts once it is read back from the log, so that a batch may be rolled back.
    """

    def __init__(self) -> None:
        self._reference: _Reference | None = None
        self._doubt: _Doubt | None = None

    def judge(self, reading: ClockReading, elapsed: float) -> LogTime:
        """Return the log's time for the batch that is about to be written.

        `elapsed` is this process's monotonic time, which counts sleep too. Raises `ClockInDoubt` at
        the first reading of a step.
        """
        reference = self._reference
        if reference is None or reference.corrected_at != reading.correction.position:
            return self._judge_by_log(reading, elapsed, is_first=reference is None)
        passed = elapsed - reference.elapsed
        stepped = (reading.clock - reference.clock) / 1e6 - passed
        if abs(stepped) > STEP_SECONDS_MIN + DRIFT * passed:
            self._require_second_reading(CorrectionReason.STEPPED, reading, elapsed)
            expected = reference.clock + int(passed * 1e6)
            goes_on_at = max(reading.correction.at(expected), reading.recorded_at)
            return _corrected(reading, goes_on_at, CorrectionReason.STEPPED)
        return self._judge_by_log(reading, elapsed, is_first=False)

    def accept(self, reading: ClockReading) -> LogTime:
        """Return the log's time after an operator confirmed the clock.

        It follows the clock at once if that is ahead of the log, and approaches it otherwise.
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
        """Judge a reading that can be compared with the log alone.

        A clock far behind the latest event is doubted; one far ahead of it is normal after a pause.
        """
        shown = reading.correction.at(reading.clock)
        if shown < reading.recorded_at - _STEP:
            self._require_second_reading(CorrectionReason.LOG_AHEAD, reading, elapsed)
            goes_on_at = max(reading.recorded_at, reading.clock)
            return _corrected(reading, goes_on_at, CorrectionReason.LOG_AHEAD)
        self._doubt = None
        self._reference = _Reference(reading.clock, elapsed, reading.correction.position)
        if is_first and shown > reading.clock >= reading.recorded_at:
            # Nothing was written for longer than the log was ahead.
            return _corrected(reading, reading.clock, CorrectionReason.CAUGHT_UP)
        return LogTime(reading.now, None)

    def _require_second_reading(
        self, reason: CorrectionReason, reading: ClockReading, elapsed: float
    ) -> None:
        """Raise `ClockInDoubt` until the step has persisted for SECOND_LOOK_SECONDS."""
        step = reading.clock / 1e6 - elapsed
        doubt = self._doubt
        if doubt is None or doubt.reason is not reason or abs(step - doubt.step) > STEP_SECONDS_MIN:
            doubt = self._doubt = _Doubt(reason, step, elapsed)
        if elapsed - doubt.since < SECOND_LOOK_SECONDS:
            raise ClockInDoubt(from_micros(reading.clock), from_micros(reading.recorded_at))


def _corrected(
    reading: ClockReading, goes_on_at: int, reason: CorrectionReason, slew_ppm: int = 0
) -> LogTime:
    offset = goes_on_at - reading.clock
    if abs(offset) <= _STEP and reading.clock + _STEP >= reading.recorded_at:
        offset = 0  # the clock is back where it was before the step, or nearly
    now = max(reading.clock + offset, reading.recorded_at)
    event = ClockCorrected(
        reason=reason,
        clock=from_micros(reading.clock),
        offset_micros=offset,
        slew_ppm=slew_ppm if offset > 0 else 0,
    )
    return LogTime(now, event)
