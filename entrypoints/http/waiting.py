"""Requests that wait for news of the log: streams, claims without work, heartbeats, and requests
for the result of a job.

Such a request may keep its connection open for long without work for the server. If too many
connections are open, the one that has waited longest is therefore closed; its client connects
again and misses nothing.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from litestar import Request

from domain.language.errors import InvalidInput

END_WAIT_SECONDS_MAX: Final = 60  # for the end of a job
_SINCE: Final = "waiting_for_news_since"


def mark_waiting(request: Request[Any, Any, Any]) -> None:
    """Mark a request as one that waits for news from now on."""
    request.scope["state"][_SINCE] = time.monotonic()


def waiting_since(scope: Mapping[str, Any]) -> float | None:
    """Return the time.monotonic() since which a request waits for news; None if it does not."""
    since: float | None = scope["state"].get(_SINCE)
    return since


def end_wait_seconds(seconds: float) -> float:
    """Return how long a request waits for the end of a job. Raises `InvalidInput`."""
    if not 0 <= seconds <= END_WAIT_SECONDS_MAX:  # NaN is not
        raise InvalidInput(f"wait_seconds must be a number from 0 to {END_WAIT_SECONDS_MAX}.")
    return seconds
