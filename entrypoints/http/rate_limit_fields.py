"""The RateLimit header fields of an answer to a rate-limited request.

`RateLimit-Policy: "user";q=600;w=60` and `RateLimit: "user";r=50;t=30`, as in
draft-ietf-httpapi-ratelimit-headers-10. `Retry-After` is never less than `t`. Further windows have
their lengths in their names: `"user-1s"`, `"global-3600s"`.
"""

import math
from datetime import datetime

from domain.language.events import RateLimitDecided
from domain.language.moments import later
from domain.limits.rate_limits import window_start


def rate_limit_fields(decision: RateLimitDecided, now: datetime) -> dict[str, str]:
    """Return the header fields by name. `now` is the log's time of the decision.

    The fields of a refusal begin with the limit that refused.
    """
    seconds = seconds_until(decision.resets_at, now)
    window = decision.window_seconds
    name = decision.window_name
    policy = f'"{name}";q={decision.limit};w={window}'
    state = f'"{name}";r={max(0, decision.limit - decision.used)};t={seconds}'
    if decision.global_limit is not None and decision.global_used is not None:
        remaining = max(0, decision.global_limit - decision.global_used)
        policy += f', "global";q={decision.global_limit};w={window}'
        state += f', "global";r={remaining};t={seconds}'
    for other in decision.windows:
        if other.name != name:
            ends = later(window_start(now, other.seconds), other.seconds)
            policy += f', "{other.name}";q={other.limit};w={other.seconds}'
            state += f', "{other.name}";r={max(0, other.limit - other.used)}'
            state += f";t={seconds_until(ends, now)}"
    return {"RateLimit-Policy": policy, "RateLimit": state}


def seconds_until(moment: datetime, now: datetime) -> int:
    """Return the whole seconds until a moment, rounded up, at least 1."""
    return max(1, math.ceil((moment - now).total_seconds()))
