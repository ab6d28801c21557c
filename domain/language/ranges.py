"""Ranges of the values that clients send and receive, one type or `Meta` for each.

/schema shows all of them. msgspec checks `ge` and `le` where it decodes a request. It does not
check what stands in `extra_json_schema`: `domain.language.validation` does, which counts the bytes
of a name and gives more precise messages.
"""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta

from domain.language.identifiers import POSITION_MAX
from domain.language.validation import (
    ATTEMPTS_MAX,
    LIMIT_MAX,
    NAME_BYTES_MAX,
    PRIORITY_MAX,
    TIMEOUT_SECONDS_MAX,
    WEIGHT_MAX,
    WINDOW_SECONDS_MAX,
)

# A user id, kind, worker, idempotency key or claim id: its length is in bytes of UTF-8.
NAME: Final = Meta(extra_json_schema={"minLength": 1, "maxLength": NAME_BYTES_MAX})
JOB_ID: Final = Meta(extra_json_schema={"minimum": 1, "maximum": POSITION_MAX})
ATTEMPT: Final = Meta(extra_json_schema={"minimum": 1})  # a request may name an impossible one
POSITION: Final = Meta(extra_json_schema={"minimum": 0, "maximum": POSITION_MAX})

Count = Annotated[int, Meta(ge=0)]
Limit = Annotated[int, Meta(ge=0, le=LIMIT_MAX)]
MaxAttempts = Annotated[int, Meta(ge=1, le=ATTEMPTS_MAX)]
Name = Annotated[str, NAME]
Priority = Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)]
Time = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]
TimeoutSeconds = Annotated[
    float, Meta(extra_json_schema={"exclusiveMinimum": 0, "maximum": TIMEOUT_SECONDS_MAX})
]
Weight = Annotated[float, Meta(extra_json_schema={"minimum": 0.01, "maximum": WEIGHT_MAX})]
WindowSeconds = Annotated[
    int, Meta(extra_json_schema={"minimum": 1, "maximum": WINDOW_SECONDS_MAX})
]
