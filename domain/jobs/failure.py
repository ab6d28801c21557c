"""Errors of attempts: their types, and what stands for one that no worker reported."""

from collections.abc import Mapping
from typing import Final, assert_never

import msgspec
from msgspec import Struct

from domain.jobs.job import Job
from domain.language.bodies import Body
from domain.language.events import FailureReason

# The types of errors that no worker reports.
UNREPORTED_TYPES: Final[Mapping[FailureReason, str]] = {
    FailureReason.TIMED_OUT: "TimeoutError",
    FailureReason.LEASE_LOST: "LeaseLost",
    FailureReason.SERVER_RESTARTED: "ServerRestarted",
    FailureReason.ERROR: "Error",
    FailureReason.PARENT_FAILED: "ParentFailed",
}


class _Typed(Struct):
    type: str = UNREPORTED_TYPES[FailureReason.ERROR]


_decode_typed: Final = msgspec.json.Decoder(_Typed).decode


def type_of(error: Body) -> str:
    """Return the type of an error that a worker reports; "Error" for one without a type."""
    try:
        return _decode_typed(error.data).type
    except msgspec.MsgspecError:  # a text, or any other JSON value
        return _Typed().type


class KnownError(Struct, frozen=True):
    """An error as a worker reports it, with the number of the attempt."""

    type: str
    message: str
    attempt: int


def unreported_error(job: Job) -> KnownError | None:
    """Return the error of the latest failed attempt if none was reported; None: it was, or the job
    never failed.
    """
    if job.failure is None or job.error_position is not None:
        return None
    attempt = job.failed_attempt
    name = UNREPORTED_TYPES[job.failure]
    match job.failure:
        case FailureReason.TIMED_OUT:
            seconds = "" if job.timeout_seconds is None else f" of {job.timeout_seconds:g} s"
            message = f"Attempt {attempt} ran longer than its time-out{seconds}."
        case FailureReason.LEASE_LOST:
            message = (
                f"The worker of attempt {attempt} sent no heartbeat before its lease ended: it "
                "crashed, was stopped, or could not reach the server."
            )
        case FailureReason.SERVER_RESTARTED:
            message = f"The server that ran attempt {attempt} ended before the attempt did."
        case FailureReason.ERROR:
            message = f"Attempt {attempt} failed without an error."
        case FailureReason.PARENT_FAILED:
            message = (
                f"Job {job.failed_parent}, which this one comes after, failed or was cancelled, so "
                "this one did not run."
            )
        case _:
            assert_never(job.failure)
    return KnownError(name, message, attempt)
