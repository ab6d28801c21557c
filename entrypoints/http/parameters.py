"""Parameters of paths and queries, with their descriptions in /schema.

Their ranges are only documented here; `domain.language.validation` and `entrypoints.http.paging`
check them.
"""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar.params import PathParameter, QueryParameter

from domain.language.events import EVENT_TYPES
from domain.language.identifiers import POSITION_MAX
from domain.language.validation import NAME_BYTES_MAX
from entrypoints.http.paging import PAGE_MAX
from entrypoints.http.waiting import END_WAIT_SECONDS_MAX

_ID: Final[dict[str, Any]] = {"minimum": 1, "maximum": POSITION_MAX}
_POSITION: Final[dict[str, Any]] = {"minimum": 0, "maximum": POSITION_MAX}
_NAME: Final[dict[str, Any]] = {"min_length": 1, "max_length": NAME_BYTES_MAX}

JobIdInPath = Annotated[int, PathParameter(description="The job's id.", schema_extra=_ID)]
UserIdInPath = Annotated[
    str,
    PathParameter(description="The user id, 1 to 255 bytes, percent-encoded.", schema_extra=_NAME),
]
KindInPath = Annotated[
    str, PathParameter(description="The kind, 1 to 255 bytes, percent-encoded.", schema_extra=_NAME)
]
PlanInPath = Annotated[
    str,
    PathParameter(description="The plan, 1 to 255 bytes, percent-encoded.", schema_extra=_NAME),
]
CallbackInPath = Annotated[
    str, PathParameter(description="The endpoint, 1 to 64 letters, digits, dots, _ and -.")
]
ScheduleInPath = Annotated[
    str,
    PathParameter(description="The schedule, 1 to 255 bytes, percent-encoded.", schema_extra=_NAME),
]
ResourceInPath = Annotated[
    str,
    PathParameter(
        description="The resource, 1 to 255 bytes, percent-encoded; or a prefix and `*`.",
        schema_extra=_NAME,
    ),
]
UserId = Annotated[
    str | None, QueryParameter(description="Only jobs and events of this user.", schema_extra=_NAME)
]
Kind = Annotated[
    str | None, QueryParameter(description="Only jobs of this kind.", schema_extra=_NAME)
]
IdempotencyKey = Annotated[
    str | None,
    QueryParameter(
        description="Only the job that this idempotency key identifies, a digest included. It "
        "needs user_id.",
        schema_extra=_NAME,
    ),
]
JobId = Annotated[
    int | None, QueryParameter(description="Only events of this job.", schema_extra=_ID)
]
EventTypes = Annotated[
    list[str] | None,
    QueryParameter(
        name="type",
        description=f"Only events of this type; may be repeated. One of {', '.join(EVENT_TYPES)}.",
    ),
]
By = Annotated[
    str | None, QueryParameter(description="Only events that the API key of this name caused.")
]
Since = Annotated[
    datetime | None,
    QueryParameter(description="Only events recorded at this time or later, as RFC 3339."),
]
Until = Annotated[
    datetime | None,
    QueryParameter(description="Only events recorded before this time, as RFC 3339."),
]
After = Annotated[
    int, QueryParameter(description="Only events after this position.", schema_extra=_POSITION)
]
AfterOrNow = Annotated[
    int | None,
    QueryParameter(
        description="Only events after this position. Left out: only new events.",
        schema_extra=_POSITION,
    ),
]
Limit = Annotated[
    int,
    QueryParameter(
        description="The maximum number of entries of a page. It has fewer if they are large.",
        schema_extra={"minimum": 1, "maximum": PAGE_MAX},
    ),
]
Cursor = Annotated[
    str | None,
    QueryParameter(description="The `next` of the previous page. Left out: the first page."),
]
AsOf = Annotated[
    str | None,
    QueryParameter(
        description="A position of the log (digits alone) or a time (RFC 3339); the answer shows "
        "the state then. Left out: the current state."
    ),
]
WaitForEnd = Annotated[
    float,
    QueryParameter(
        name="wait_seconds",
        description="The longest time in seconds to wait until the job has ended. After it, the "
        "answer shows the job as it stands then. 0: do not wait.",
        schema_extra={"minimum": 0, "maximum": END_WAIT_SECONDS_MAX},
    ),
]
