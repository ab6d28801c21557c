"""Bodies, the data of users (payloads, results, errors): canonical JSON of bounded size and depth.

Canonical means compact with sorted keys, so that equal values are equal bytes and one SHA-256
serves both as the body's proof in the log and as its identity for idempotency.
"""

from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.language.errors import InvalidInput

BODY_BYTES_MAX: Final = 1024 * 1024  # of canonical JSON
DEPTH_MAX: Final = 32  # levels of nested lists and objects

_encoder = msgspec.json.Encoder(order="deterministic")


class InvalidUnicode(InvalidInput):
    """A string in the value has a lone surrogate, which UTF-8 cannot encode."""


class Body(Struct, frozen=True, gc=False):
    """A payload, result or error. Equal values have equal bytes."""

    data: bytes  # canonical JSON
    sha256: str  # hex, of data

    @property
    def size(self) -> int:
        return len(self.data)


def body_of_json(text: bytes, what: str) -> Body:
    """Make a body of JSON text whose syntax is valid. `what` names it in error messages.

    Raises `InvalidInput` as `body_of` does, for a number out of range and for invalid UTF-8. Text
    that is too large is refused before it is decoded: 8 MiB of empty arrays would take a second and
    180 MB.
    """
    if len(text) > BODY_BYTES_MAX and (size := _least_size(text)) > BODY_BYTES_MAX:
        raise _too_large(what, f"at least {size}")
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"Not accepted: {what}: {error}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"Not accepted: the {what} is not valid UTF-8.") from None
    except RecursionError:
        raise _too_deep(what) from None
    # The depth is at most the number of opening brackets, and few bodies have so many.
    if text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return _encoded(value, what)
    return body_of(value, what)


def stored_body(data: bytes) -> Body:
    """Return a body of canonical JSON that has been checked already."""
    return Body(data, sha256(data).hexdigest())


def body_of(value: Any, what: str) -> Body:  # noqa: ANN401 (any JSON value)
    """Make a body of a JSON value. `what` names it in error messages.

    Raises `InvalidInput` if the value is nested deeper than DEPTH_MAX or larger than
    BODY_BYTES_MAX, and `InvalidUnicode` if a string has a lone surrogate.
    """
    if _is_deeper_than(value, DEPTH_MAX):
        raise _too_deep(what)
    return _encoded(value, what)


def _encoded(value: Any, what: str) -> Body:  # noqa: ANN401 (any JSON value)
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError:
        raise InvalidUnicode(
            f"A text in the {what} has lone surrogates, which JSON cannot hold."
        ) from None
    if len(data) > BODY_BYTES_MAX:
        raise _too_large(what, str(len(data)))
    return stored_body(data)


def _least_size(text: bytes) -> int:
    """Return a lower bound for the size of the canonical form, in bytes.

    White space is not counted, and each escape counts as one byte, although it may have six.
    """
    compact = msgspec.json.format(text, indent=-1)
    return len(compact) - 5 * compact.count(b"\\")


def _too_deep(what: str) -> InvalidInput:
    return InvalidInput(f"The {what} is nested more than {DEPTH_MAX} deep; flatten it.")


def _too_large(what: str, size: str) -> InvalidInput:
    return InvalidInput(
        f"The {what} has {size} bytes as compact JSON; at most {BODY_BYTES_MAX} are "
        "accepted. Store it elsewhere and submit a reference.",
        is_too_large=True,
    )


def _is_deeper_than(value: Any, levels: int) -> bool:  # noqa: ANN401 (any JSON value)
    """Search level by level, since recursion could exhaust the stack."""
    level = [value] if isinstance(value, dict | list | tuple) else []
    while level:
        if levels == 0:
            return True
        levels -= 1
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list | tuple)
        ]
    return False
