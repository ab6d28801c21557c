"""Retry policies as clients write and read them."""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import asdict

from domain.language import validation
from domain.language.limits import RETRY_DEFAULTS, RetryPolicy
from domain.language.ranges import Name

_Attempts = Annotated[
    int, Meta(extra_json_schema={"minimum": 1, "maximum": validation.ATTEMPTS_MAX})
]
_Backoff = Annotated[str, Meta(extra_json_schema={"enum": list(validation.BACKOFFS)})]
_Seconds = Annotated[
    float, Meta(extra_json_schema={"minimum": 0, "maximum": validation.RETRY_IN_SECONDS_MAX})
]
_Factor = Annotated[float, Meta(extra_json_schema={"minimum": 1, "maximum": validation.FACTOR_MAX})]
_Fraction = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 1})]
_Never = Annotated[tuple[Name, ...], Meta(extra_json_schema={"maxItems": validation.NEVER_MAX})]


class RetryFields(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A rule of when failed attempts are followed by another. What is left out or null is as the
    job's kind says, else as the server's settings say.
    """

    attempts: Annotated[
        _Attempts | None, Meta(description="How many attempts may fail, 1 to 1000: max_attempts.")
    ] = None
    backoff: Annotated[
        _Backoff | None,
        Meta(
            description="The delays after the 1st, 2nd, 3rd failure: constant: base_seconds each "
            "time. linear: 1, 2, 3 times that. exponential: that, times factor each time."
        ),
    ] = None
    base_seconds: Annotated[
        _Seconds | None,
        Meta(description="The delay after the first failure in seconds, 0 to 31622400."),
    ] = None
    factor: Annotated[
        _Factor | None,
        Meta(description="By which an exponential delay grows with each failure, 1 to 100."),
    ] = None
    maximum_seconds: Annotated[
        _Seconds | None,
        Meta(description="The longest delay in seconds, from base_seconds to 31622400."),
    ] = None
    jitter: Annotated[
        _Fraction | None,
        Meta(
            description="The part of a delay that chance may take off, 0 to 1, so that jobs that "
            "failed together are not tried again together."
        ),
    ] = None
    never: Annotated[
        _Never | None,
        Meta(
            description="At most 20 types of errors after which no attempt follows: the `type` of "
            "the error that the worker reports; TimeoutError, LeaseLost or ServerRestarted for an "
            "attempt that ended without one."
        ),
    ] = None

    def to_policy(self) -> RetryPolicy:
        """Check the values. Raises `InvalidInput`."""
        return validation.retry_policy(
            RetryPolicy(
                attempts=self.attempts,
                backoff=validation.backoff(self.backoff),
                base_seconds=self.base_seconds,
                factor=self.factor,
                maximum_seconds=self.maximum_seconds,
                jitter=self.jitter,
                never=None if self.never is None else tuple(dict.fromkeys(self.never)),
            )
        )


def retry_fields(policy: RetryPolicy | None) -> RetryFields | None:
    """Return the policy of a job in full, without `attempts`; None: the default."""
    if policy is None:
        return None
    said = {name: value for name, value in asdict(policy).items() if value is not None}
    return RetryFields(**{**RETRY_DEFAULTS, **said})
