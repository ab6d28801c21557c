"""The Idempotency-Key header of a submission, read from the raw header fields.

If it were declared as a parameter, Litestar would convert all header fields to a dictionary, which
costs a seventh of a refused submission.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema

from domain.language.errors import InvalidInput
from domain.language.validation import NAME_BYTES_MAX

_FIELD: Final = b"idempotency-key"
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # a String of RFC 9651, section 3.3.3


@dataclass
class TakesIdempotencyKey(Operation):
    """An operation in /schema with the header as a parameter."""

    def __post_init__(self) -> None:
        header = Parameter(
            name="Idempotency-Key",
            param_in="header",
            schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=NAME_BYTES_MAX),
            description="1 to 255 bytes of UTF-8, quoted or not. A submission sent again with the "
            "same key returns the same job.",
        )
        self.parameters = [*(self.parameters or ()), header]


def idempotency_key_of(request: Request[Any, Any, Any]) -> str | None:
    """Return the header's value; None if it was not sent. Raises `InvalidInput` if not UTF-8.

    draft-ietf-httpapi-idempotency-key-header requires a quoted string; an unquoted value is used
    unchanged. `entrypoints.http.edge` has refused requests with more than one such field.
    """
    for name, value in request.scope["headers"]:
        if name == _FIELD:
            return _unquoted(value)
    return None


def _unquoted(header: bytes) -> str:
    try:
        key = header.decode()
    except UnicodeDecodeError:
        raise InvalidInput("The Idempotency-Key header is not valid UTF-8.") from None
    quoted = _QUOTED.fullmatch(key)
    return re.sub(r'\\(["\\])', r"\1", quoted[1]) if quoted else key
