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
