"""The hash chain over the log, fixed from the first row on.

`entry` = position, version, type, user_id, job_id, recorded_at in microseconds, data, in that
order; integers as 8 bytes big-endian, each field preceded by its length as 4 bytes big-endian, an
absent field by 0xFFFFFFFF. `leaf = SHA-256(0x00 ‖ entry)` (RFC 6962, section 2.1), and
`hash = SHA-256(previous hash ‖ leaf)`.
"""

from hashlib import sha256
from typing import Final

GENESIS: Final = bytes(32)  # the hash before the first event
_ABSENT: Final = b"\xff\xff\xff\xff"
_EIGHT: Final = b"\x00\x00\x00\x08"


def leaf(
    position: int,
    version: int,
    type_name: bytes,
    user_id: bytes | None,
    job_id: int | None,
    recorded_at_micros: int,
    data: bytes,
) -> bytes:
    """Hash one row of the log by itself."""
    entry = (
        b"\x00" + _EIGHT + position.to_bytes(8, "big") + _EIGHT + version.to_bytes(8, "big")
        + len(type_name).to_bytes(4, "big") + type_name
        + (_ABSENT if user_id is None else len(user_id).to_bytes(4, "big") + user_id)
        + (_ABSENT if job_id is None else _EIGHT + job_id.to_bytes(8, "big"))
        + _EIGHT + recorded_at_micros.to_bytes(8, "big")
        + len(data).to_bytes(4, "big") + data
    )  # fmt: skip
    return sha256(entry).digest()


def link(previous: bytes, leaf_hash: bytes) -> bytes:
    """The hash that a row stores: it stands for the row and for everything before it."""
    return sha256(previous + leaf_hash).digest()
