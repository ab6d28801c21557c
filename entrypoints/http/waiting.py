"""Requests that wait for news: streams, claims that wait for work, heartbeats that wait for word.

They hold a connection for as long as they like while nothing is done for them. So where too many
connections are open it is one of these that makes room, the longest first; their clients come back
and miss nothing.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from litestar import Request

_SINCE: Final = "waits_for_news_since"


def waits_for_news(request: Request[Any, Any, Any]) -> None:
    """Mark a request that does from now on."""
    request.scope["state"][_SINCE] = time.monotonic()


def waits_since(scope: Mapping[str, Any]) -> float | None:
    """Since when (time.monotonic()) the request waits for news; None: it does not."""
    since: float | None = scope["state"].get(_SINCE)
    return since
