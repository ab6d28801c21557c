"""Results and errors as JSON of bounded size and depth, as the server accepts them."""

from typing import Any

import msgspec

BODY_BYTES_MAX = 1024 * 1024  # of compact JSON
DEPTH_MAX = 32  # levels of nested lists and objects
_encode = msgspec.json.Encoder(order="deterministic").encode


class InvalidValue(ValueError):
    """JSON cannot hold the value, or the server would not accept it. The message says where."""


class InvalidText(InvalidValue):
    """A string in the value has a lone surrogate, which UTF-8 cannot encode."""


def encoded(value: Any, what: str) -> bytes:  # noqa: ANN401 (any JSON value)
    """Return a value as JSON. `what` names it in error messages.

    Raises `InvalidValue` if it is larger than BODY_BYTES_MAX, and `InvalidText`.
    """
    try:
        data = _encode(value)
    except UnicodeEncodeError:
        raise InvalidText(
            f"A text in the {what} has lone surrogates, which JSON cannot hold."
        ) from None
    if len(data) > BODY_BYTES_MAX:
        raise InvalidValue(
            f"The {what} has {len(data)} bytes as compact JSON; at most {BODY_BYTES_MAX} are "
            "accepted. Store it elsewhere and submit a reference."
        )
    return data
