"""The values that limits are made of: rates, weights and retry policies."""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

WEIGHT_DEFAULT: Final = 100  # hundredths: a weight of 1

Backoff = Literal["constant", "linear", "exponential"]


class Rate(Struct, frozen=True, gc=False):
    """A limit in each fixed window of some length; windows are aligned to Unix time 0."""

    limit: int  # at most so many in a window; from 0
    seconds: int  # length of the window, 1 to 31 days


class RetryPolicy(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A rule of when failed attempts of a job are followed by another.

    The delay after the n-th failure is `base_seconds` (constant), `base_seconds` * n (linear), or
    `base_seconds` * `factor` ** (n - 1) (exponential), at most `maximum_seconds`. A field that is
    None is not said here: see `resolved_retry`.
    """

    attempts: int | None = None  # that may fail, 1 to 1000
    backoff: Backoff | None = None
    base_seconds: float | None = None  # 0 to 366 days
    factor: float | None = None  # of an exponential backoff, 1 to 100
    maximum_seconds: float | None = None  # 0 to 366 days; never below `base_seconds`
    jitter: float | None = None  # fraction of a delay that chance may take off, 0 to 1
    never: tuple[str, ...] | None = None  # types of errors after which no attempt follows


PUSH_SECONDS: Final = 300.0


class PushEndpoint(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """An endpoint that the servers post the jobs of a kind to."""

    url: str  # http or https
    timeout_seconds: float = PUSH_SECONDS  # of one request; a job's own time-out may be shorter
    secret_version: int = 1  # of the secret that requests are signed with; one more is another


# The rule where nobody says anything else, and that of logs of earlier releases.
BACKOFF: Final[Backoff] = "exponential"
BASE_SECONDS: Final = 1.0
FACTOR: Final = 2.0
MAXIMUM_SECONDS: Final = 3600.0
JITTER: Final = 0.5
RETRY_DEFAULTS: Final[Mapping[str, Any]] = {
    "backoff": BACKOFF,
    "base_seconds": BASE_SECONDS,
    "factor": FACTOR,
    "maximum_seconds": MAXIMUM_SECONDS,
    "jitter": JITTER,
    "never": (),
}

T = TypeVar("T")


def resolved_retry(*policies: RetryPolicy | None) -> RetryPolicy | None:
    """Return the policy of a job: each field from the first of the policies that says it.

    Fields with the default are left out, and so is `attempts`, which a job has as `max_attempts`.
    None: nothing is left.
    """
    said: dict[str, object] = {}
    for policy in policies:
        if policy is not None:
            for name in RETRY_DEFAULTS:
                value = getattr(policy, name)
                if value is not None:
                    said.setdefault(name, value)
    differing = {name: value for name, value in said.items() if value != RETRY_DEFAULTS[name]}
    return replace(RetryPolicy(), **differing) if differing else None


class DelayRange(NamedTuple):
    """The seconds from a failure to the next attempt, from `least` to `most`."""

    least: float
    most: float


def delay_range(policy: RetryPolicy | None, failures: int) -> DelayRange:
    """Return the delay before the next attempt. `failures` are those before the latest, from 0."""
    policy = policy or RetryPolicy()
    base = _or(policy.base_seconds, BASE_SECONDS)
    most = max(base, _or(policy.maximum_seconds, MAXIMUM_SECONDS))
    match policy.backoff or BACKOFF:
        case "constant":
            full = base
        case "linear":
            full = base * (failures + 1)
        case "exponential":
            full = base * _power(_or(policy.factor, FACTOR), failures) if base else 0.0
    full = min(full, most)
    return DelayRange(full * (1 - _or(policy.jitter, JITTER)), full)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _power(factor: float, exponent: int) -> float:
    try:
        return factor**exponent
    except OverflowError:
        return math.inf
