"""How far the log's time is from the database's clock, in a sentence where that matters."""

from domain.log.log_time import STEP_SECONDS_MIN, ClockReading

_ADVICE = (
    "if that clock is wrong, set it right; if it is right, `fairlog clock --accept` has the log's "
    "time go by it"
)


def clock_note(reading: ClockReading) -> str | None:
    """What to know of the clock, and what to do; None where the log goes by it.

    It is no failure: windows, leases and schedules go on by the log's time.
    """
    seconds = reading.seconds_ahead
    if abs(seconds) <= STEP_SECONDS_MIN:
        return None
    where = "ahead of" if seconds > 0 else "behind"
    found = f"The log's time is {abs(seconds):,.1f} s {where} the database's clock"
    if reading.correction.trusts_clock:
        return f"{found}, and nears it."
    return f"{found}; {_ADVICE}."
