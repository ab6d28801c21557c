"""The Python client of Fairlog, a fair, rate-limited job service for many tenants.

    from fairlog_client import Fairlog

    with Fairlog("http://127.0.0.1:8000") as fairlog:
        job = fairlog.submit(user_id="alice", kind="echo", payload={"hello": "world"})
        print(job.result(timeout=30))

`AsyncFairlog` has the same methods for asyncio, and `Jobs` makes functions to kinds of job.
"""

from fairlog_client.answers import Event, Explanation, Failure, JobState, Limits, State, UserLimits
from fairlog_client.calls import Submission
from fairlog_client.clients import AsyncFairlog, AsyncJob, Fairlog, Job
from fairlog_client.errors import (
    Conflict,
    FairlogError,
    InvalidArguments,
    InvalidRequest,
    JobCancelled,
    JobEnded,
    JobFailed,
    KeyNotValid,
    KeyReused,
    NotAllowed,
    NotFound,
    RateLimited,
    Refused,
    ResultTimeout,
    ServerFailed,
    ServerUnavailable,
    UnexpectedAnswer,
)
from fairlog_client.flows import Retries
from fairlog_client.outbox import enqueue
from fairlog_client.tasks import Jobs, Task

__all__ = [
    "AsyncFairlog",
    "AsyncJob",
    "Conflict",
    "Event",
    "Explanation",
    "Failure",
    "Fairlog",
    "FairlogError",
    "InvalidArguments",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobFailed",
    "JobState",
    "Jobs",
    "KeyNotValid",
    "KeyReused",
    "Limits",
    "NotAllowed",
    "NotFound",
    "RateLimited",
    "Refused",
    "ResultTimeout",
    "Retries",
    "ServerFailed",
    "ServerUnavailable",
    "State",
    "Submission",
    "Task",
    "UnexpectedAnswer",
    "UserLimits",
    "enqueue",
]
