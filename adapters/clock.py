"""The one place that reads the machine's clock."""

import time
from datetime import UTC, datetime, timedelta

# Added to, rather than asking datetime.now(): under freezegun that gives a FakeDatetime, which
# msgspec refuses to encode.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SystemClock:
    """The machine's wall clock. It may step back; what needs more order takes the log's time."""

    def now(self) -> datetime:
        """Return the moment in UTC, to the microsecond."""
        return _EPOCH + timedelta(microseconds=time.time_ns() // 1_000)

    def elapsed(self) -> float:
        """Seconds since some moment, by a clock that nobody sets; time asleep counts too."""
        return time.monotonic() + _asleep()


def _asleep() -> float:
    """Seconds that the machine was suspended; Linux leaves them out of the monotonic clock."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    awake = time.clock_gettime(time.CLOCK_MONOTONIC)
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - awake)
