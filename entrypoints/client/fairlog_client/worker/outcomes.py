"""Jobs as a worker claims them, and the outcomes that it reports."""

from typing import TypeAlias

from msgspec import Raw, Struct

AttemptKey: TypeAlias = tuple[int, int]  # a job and its attempt, which is the fencing token


class ClaimedJob(Struct, frozen=True, kw_only=True):
    """A job that a worker holds from its claim on."""

    id: int  # a position in the log
    user_id: str
    kind: str
    payload: Raw  # JSON
    attempt: int
    timeout_seconds: float | None = None  # the longest run of the handler; None: no time-out
    started: bool = True  # False: the worker reports when the handler starts
    alone: bool = False  # True: the worker must run no other job at the same time


class ProgressReport(Struct, frozen=True):
    """A handler's report of how far it is."""

    fraction: float  # 0 to 1
    message: str = ""  # what it is doing


class Completed(Struct, frozen=True, kw_only=True):
    """The attempt succeeded."""

    job_id: int
    attempt: int
    result: bytes | None = None  # JSON; None: null


class Failed(Struct, frozen=True, kw_only=True):
    """The attempt failed."""

    job_id: int
    attempt: int
    error: bytes  # JSON
    may_retry: bool = True  # False: no further attempt can succeed
    retry_in_seconds: float | None = None  # when the next attempt may start; None: the server says


class Returned(Struct, frozen=True, kw_only=True):
    """The attempt did not run to its end here; another one may follow at once."""

    job_id: int
    attempt: int
    begun: bool = False  # its handler had begun
    suspect: bool = False  # its handler may have ended its process: its next attempt runs alone


Outcome: TypeAlias = Completed | Failed | Returned
