"""Retry policies of jobs, and an exception that asks for another attempt."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct


class RetryPolicy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule of when failed attempts of a job are followed by another.

    What is None is as the job's kind says, else as the server's settings say.
    """

    attempts: int | None = None  # that may fail, 1 to 1000: `max_attempts`
    backoff: Literal["constant", "linear", "exponential"] | None = None  # growth of the delay
    base_seconds: float | None = None  # the delay after the first failure, from 0
    factor: float | None = None  # of an exponential backoff, 1 to 100
    maximum_seconds: float | None = None  # the longest delay, not below base_seconds
    jitter: float | None = None  # the part of each delay that chance may take off, 0 to 1
    never: Sequence[str] | None = None  # at most 20 types of errors after which no attempt follows


class RetryLater(Exception):
    """An exception that fails the attempt, and says when the next one starts.

    The attempt counts as a failure all the same. `message` becomes the job's error.
    """

    def __init__(self, after: float, message: str = "") -> None:
        """`after`: seconds until the next attempt, from 0 to 366 days."""
        super().__init__(message or f"The handler asks to be run again after {after:g} s.")
        self.retry_in_seconds = after
