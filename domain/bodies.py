"""What users put in (payloads, results, errors): canonical JSON, bounded in size and depth.

Canonical means compact with sorted keys, so that equal values are equal bytes and one SHA-256
serves both as the body's proof in the log and as its identity for idempotency.
"""

from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.errors import InvalidInput

BODY_BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 32  # containers within containers

_encoder = msgspec.json.Encoder(order="deterministic")


class Body(Struct, frozen=True, gc=False):
    data: bytes  # canonical JSON
    sha256: str  # hex, of data

    @property
    def size(self) -> int:
        return len(self.data)


def body_of(value: Any, what: str) -> Body:  # noqa: ANN401 (any JSON value)
    """Make a body of a JSON value. `what` names it in the error.

    Raises `InvalidInput` when it is nested deeper than DEPTH_MAX or larger than BODY_BYTES_MAX, or
    no valid Unicode.
    """
    if _is_deeper_than(value, DEPTH_MAX):
        raise InvalidInput(f"The {what} is nested more than {DEPTH_MAX} deep; flatten it.")
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError:
        raise InvalidInput(f"The {what} is valid Unicode, without lone surrogates.") from None
    if len(data) > BODY_BYTES_MAX:
        raise InvalidInput(
            f"The {what} has {len(data)} bytes as compact JSON; at most {BODY_BYTES_MAX} are "
            "accepted. Store it elsewhere and submit a reference.",
            is_too_large=True,
        )
    return Body(data, sha256(data).hexdigest())


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
