"""The Idempotency-Key header of a submission, read from the bytes that came.

Declared as a parameter, Litestar would make a dictionary of all header fields to take one out of
it: a seventh of what a refused submission costs.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema

from domain.language.errors import InvalidInput
from domain.language.validation import NAME_BYTES_MAX

_FIELD: Final = b"idempotency-key"
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # a string of RFC 9651, section 3.3.3


@dataclass
class TakesIdempotencyKey(Operation):
    """A call in /schema that takes the header."""

    def __post_init__(self) -> None:
        header = Parameter(
            name="Idempotency-Key",
            param_in="header",
            schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=NAME_BYTES_MAX),
            description="1 to 255 bytes of UTF-8, quoted or not. A submission sent again with the "
            "same key gives the same job.",
        )
        self.parameters = [*(self.parameters or ()), header]


def idempotency_key_of(request: Request[Any, Any, Any]) -> str | None:
    """Return the header's value; None where it was not sent. Raises `InvalidInput`.

    The draft wants a quoted string; what is not quoted is taken as it is. A key is UTF-8 here as in
    the body. That there is one such field at most was checked before (see `entrypoints.http.edge`).
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
