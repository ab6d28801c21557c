"""Describes how far the log's time is from the database's clock."""

from domain.log.log_time import STEP_SECONDS_MIN, ClockReading

_ADVICE = (
    "if that clock is wrong, correct it; if it is right, run `fairlog clock --accept`, so that the "
    "log's time follows it"
)


def clock_note(reading: ClockReading) -> str | None:
    """Return a sentence about the difference and what to do; None if the log follows the clock.

    A difference is no failure: windows, leases and schedules go by the log's time.
    """
    seconds = reading.seconds_ahead
    if abs(seconds) <= STEP_SECONDS_MIN:
        return None
    where = "ahead of" if seconds > 0 else "behind"
    found = f"The log's time is {abs(seconds):,.1f} s {where} the database's clock"
    if reading.correction.trusts_clock:
        return f"{found} and is approaching it."
    return f"{found}; {_ADVICE}."
