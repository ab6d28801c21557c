"""The Python client of Fairlog, a fair, rate-limited job service for many tenants.

    from fairlog_client import Fairlog

    with Fairlog("http://127.0.0.1:8000") as fairlog:
        job = fairlog.submit(user_id="alice", kind="echo", payload={"hello": "world"})
        print(job.result(timeout=30))

`AsyncFairlog` has the same methods for asyncio, and `Jobs` makes functions to kinds of job.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fairlog_client.answers import (
    Callback,
    CallbackTarget,
    Event,
    Explanation,
    Failure,
    JobState,
    KindLimits,
    Limits,
    Plan,
    Progress,
    Push,
    Rate,
    Schedule,
    ScheduleRun,
    State,
    UserLimits,
)
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
from fairlog_client.retry_policies import RetryLater, RetryPolicy
from fairlog_client.submissions import Submission

if TYPE_CHECKING:
    from fairlog_client.clients import AsyncFairlog, AsyncJob, Fairlog, Job
    from fairlog_client.tasks import Jobs, Task

# These are imported when they are used, so that a process that only runs handlers does not import
# an HTTP client.
_LATER = {
    "AsyncFairlog": "fairlog_client.clients",
    "AsyncJob": "fairlog_client.clients",
    "Fairlog": "fairlog_client.clients",
    "Job": "fairlog_client.clients",
    "Jobs": "fairlog_client.tasks",
    "Task": "fairlog_client.tasks",
}

__all__ = [
    "AsyncFairlog",
    "AsyncJob",
    "Callback",
    "CallbackTarget",
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
    "KindLimits",
    "Limits",
    "NotAllowed",
    "NotFound",
    "Plan",
    "Progress",
    "Push",
    "Rate",
    "RateLimited",
    "Refused",
    "ResultTimeout",
    "Retries",
    "RetryLater",
    "RetryPolicy",
    "Schedule",
    "ScheduleRun",
    "ServerFailed",
    "ServerUnavailable",
    "State",
    "Submission",
    "Task",
    "UnexpectedAnswer",
    "UserLimits",
    "enqueue",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a class)
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
