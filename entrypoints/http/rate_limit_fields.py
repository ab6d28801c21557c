"""The RateLimit header fields of an answer that carries a decision.

`RateLimit-Policy: "user";q=600;w=60` and `RateLimit: "user";r=50;t=30`, as in
draft-ietf-httpapi-ratelimit-headers-10; `Retry-After` is never earlier than `t`.
"""

import math
from datetime import datetime

from domain.language.events import RateLimitDecided


def rate_limit_fields(decision: RateLimitDecided, now: datetime) -> dict[str, str]:
    """`now` is the log's clock at the decision. A refusal names only the limit that refused."""
    seconds = seconds_until(decision.resets_at, now)
    window = decision.window_seconds
    policy = f'"{decision.scope.value}";q={decision.limit};w={window}'
    state = f'"{decision.scope.value}";r={max(0, decision.limit - decision.used)};t={seconds}'
    if decision.global_limit is not None and decision.global_used is not None:
        left = max(0, decision.global_limit - decision.global_used)
        policy += f', "global";q={decision.global_limit};w={window}'
        state += f', "global";r={left};t={seconds}'
    return {"RateLimit-Policy": policy, "RateLimit": state}


def seconds_until(moment: datetime, now: datetime) -> int:
    """Whole seconds, rounded up, at least 1."""
    return max(1, math.ceil((moment - now).total_seconds()))
