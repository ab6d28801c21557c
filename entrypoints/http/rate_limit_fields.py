"""The RateLimit header fields of an answer that carries a decision.

`RateLimit-Policy: "user";q=600;w=60` and `RateLimit: "user";r=50;t=30`, as in
draft-ietf-httpapi-ratelimit-headers-10; `Retry-After` is never earlier than `t`.
"""

import math
from datetime import datetime

from domain.events import RateLimitDecided, Scope
from domain.rate_limits import resets_at


def rate_limit_fields(decision: RateLimitDecided, now: datetime) -> dict[str, str]:
    """`now` is the log's clock at the decision. A refusal names only the limit that refused."""
    windows = [(decision.scope, decision.limit, decision.used)]
    if decision.global_limit is not None and decision.global_used is not None:
        windows.append((Scope.GLOBAL, decision.global_limit, decision.global_used))
    seconds = seconds_until(resets_at(decision), now)
    return {
        "RateLimit-Policy": ", ".join(
            f'"{scope}";q={limit};w={decision.window_seconds}' for scope, limit, _ in windows
        ),
        "RateLimit": ", ".join(
            f'"{scope}";r={max(0, limit - used)};t={seconds}' for scope, limit, used in windows
        ),
    }


def seconds_until(moment: datetime, now: datetime) -> int:
    """Whole seconds, rounded up, at least 1."""
    return max(1, math.ceil((moment - now).total_seconds()))
