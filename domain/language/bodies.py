"""What users put in (payloads, results, errors): canonical JSON, bounded in size and depth.

Canonical means compact with sorted keys, so that equal values are equal bytes and one SHA-256
serves both as the body's proof in the log and as its identity for idempotency.
"""

from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.language.errors import InvalidInput

BODY_BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 32  # containers within containers

_encoder = msgspec.json.Encoder(order="deterministic")


class InvalidUnicode(InvalidInput):
    """A text in it has a lone surrogate, which no encoding can hold."""


class Body(Struct, frozen=True, gc=False):
    data: bytes  # canonical JSON
    sha256: str  # hex, of data

    @property
    def size(self) -> int:
        return len(self.data)


def body_of_json(text: bytes, what: str) -> Body:
    """Make a body of JSON text whose syntax has been checked. `what` names it in the error.

    Numbers count as they are written. Raises `InvalidInput` as `body_of` does, and for a number out
    of range or a text that is no UTF-8. Text that is too large becomes no objects first: 8 MiB of
    empty arrays would take a second and 180 MB.
    """
    if len(text) > BODY_BYTES_MAX and (size := _least_size(text)) > BODY_BYTES_MAX:
        raise _too_large(what, f"at least {size}")
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"Not accepted: {what}: {error}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"Not accepted: the {what} is no valid UTF-8.") from None
    except RecursionError:
        raise _too_deep(what) from None
    # A value is no deeper than there are brackets, and few have so many.
    if text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return _encoded(value, what)
    return body_of(value, what)


def body_of(value: Any, what: str) -> Body:  # noqa: ANN401 (any JSON value)
    """Make a body of a JSON value. `what` names it in the error.

    Raises `InvalidInput` when it is nested deeper than DEPTH_MAX or larger than BODY_BYTES_MAX, or
    no valid Unicode.
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
    return Body(data, sha256(data).hexdigest())


def _least_size(text: bytes) -> int:
    """Return a number of bytes that the canonical form of JSON text is not below.

    Without white space; and an escape of up to six bytes may stand for a single one.
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
    """Walk level by level, so that neither depth nor width can exhaust the stack."""
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
