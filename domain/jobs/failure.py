"""The error of an attempt whose worker reported none: it was lost, or ran too long."""

from typing import assert_never

from msgspec import Struct

from domain.jobs.job import Job
from domain.language.events import FailureReason


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
    match job.failure:
        case FailureReason.TIMED_OUT:
            seconds = "" if job.timeout_seconds is None else f" of {job.timeout_seconds:g} s"
            return KnownError(
                "TimeoutError", f"Attempt {attempt} ran longer than its time-out{seconds}.", attempt
            )
        case FailureReason.LEASE_LOST:
            message = (
                f"The worker of attempt {attempt} sent no heartbeat before its lease ended: it "
                "crashed, was stopped, or could not reach the server."
            )
            return KnownError("LeaseLost", message, attempt)
        case FailureReason.SERVER_RESTARTED:
            message = f"The server that ran attempt {attempt} ended before the attempt did."
            return KnownError("ServerRestarted", message, attempt)
        case FailureReason.ERROR:
            return KnownError("Error", f"Attempt {attempt} failed without an error.", attempt)
        case _:
            assert_never(job.failure)
