"""The values that limits are made of: rates, weights and retry policies."""

from typing import Final, Literal

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
    None is not said here: see `said_over`.
    """

    attempts: int | None = None  # that may fail, 1 to 1000
    backoff: Backoff | None = None
    base_seconds: float | None = None  # 0 to 366 days
    factor: float | None = None  # of an exponential backoff, 1 to 100
    maximum_seconds: float | None = None  # 0 to 366 days; never below `base_seconds`
    jitter: float | None = None  # fraction of a delay that chance may take off, 0 to 1
    never: tuple[str, ...] | None = None  # types of errors after which no attempt follows

    def said_over(self, other: "RetryPolicy | None") -> "RetryPolicy":
        """Return this policy with what it does not say taken from another one."""
        if other is None:
            return self
        own = {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not None
        }
        return replace(other, **own)


# The rule where nobody says anything else, and the one of all logs of earlier releases.
DEFAULT_RETRY: Final = RetryPolicy(
    backoff="exponential",
    base_seconds=1.0,
    factor=2.0,
    maximum_seconds=3600.0,
    jitter=0.5,
    never=(),
)


def resolved_retry(*policies: RetryPolicy | None) -> RetryPolicy | None:
    """Return the policy of a job, of policies in the order of their precedence, without `attempts`,
    which the job has itself. Only what differs from DEFAULT_RETRY is in it; None: nothing.
    """
    resolved = RetryPolicy()
    for policy in policies:
        resolved = resolved.said_over(policy)
    differing = {
        name: value
        for name in resolved.__struct_fields__
        if name != "attempts"
        and (value := getattr(resolved, name)) not in {None, getattr(DEFAULT_RETRY, name)}
    }
    return RetryPolicy(**differing) if differing else None
