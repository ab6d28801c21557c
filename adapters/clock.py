"""The one place that reads the machine's clock."""

import time
from datetime import UTC, datetime, timedelta

# Added to, rather than asking datetime.now(): under freezegun that gives a FakeDatetime, which
# msgspec refuses to encode.
_UNIX_TIME_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


class SystemClock:
    """The machine's wall clock. It may step back; code that needs order uses the log's time."""

    def now(self) -> datetime:
        """Return the moment in UTC, to the microsecond."""
        return _UNIX_TIME_ZERO + timedelta(microseconds=time.time_ns() // 1_000)

    def elapsed(self) -> float:
        """Return monotonic seconds, with an arbitrary zero; suspended time counts too."""
        return time.monotonic() + _asleep()


def _asleep() -> float:
    """Return how long the machine was suspended, which Linux omits from CLOCK_MONOTONIC."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    awake = time.clock_gettime(time.CLOCK_MONOTONIC)
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - awake)
