"""The hash chain over the log. Its format is fixed for ever.

`entry` = position, version, type, user_id, job_id, recorded_at in microseconds, data, in that
order; integers as 8 bytes big-endian, each field preceded by its length as 4 bytes big-endian, an
absent field by 0xFFFFFFFF. `leaf = SHA-256(0x00 ‖ entry)` (RFC 6962, section 2.1), and
`hash = SHA-256(previous hash ‖ leaf)`.
"""

from hashlib import sha256
from struct import Struct
from typing import Final

GENESIS: Final = bytes(32)  # the hash before the first event
_ABSENT: Final = 0xFFFFFFFF
# One call for adjacent fields: I is a length of 4 bytes, Q an integer of 8.
_TO_TYPE: Final = Struct(">xIQIQI").pack  # 0x00, position, version, the type's length
_LENGTH: Final = Struct(">I").pack
_FROM_JOB: Final = Struct(">IQIQI").pack  # job_id, recorded_at, the data's length
_FROM_NO_JOB: Final = Struct(">IIQI").pack


def leaf(
    position: int,
    version: int,
    type_name: bytes,
    user_id: bytes | None,
    job_id: int | None,
    recorded_at_micros: int,
    data: bytes,
) -> bytes:
    """Return the leaf hash of one row. Raises `struct.error` for numbers out of range."""
    length = len(data)
    entry = (
        _TO_TYPE(8, position, 8, version, len(type_name))
        + type_name
        + (_LENGTH(_ABSENT) if user_id is None else _LENGTH(len(user_id)) + user_id)
        + (
            _FROM_NO_JOB(_ABSENT, 8, recorded_at_micros, length)
            if job_id is None
            else _FROM_JOB(8, job_id, 8, recorded_at_micros, length)
        )
        + data
    )
    return sha256(entry).digest()


def link(previous: bytes, leaf_hash: bytes) -> bytes:
    """Return the hash that a row stores; it commits to the row and to everything before it."""
    return sha256(previous + leaf_hash).digest()
