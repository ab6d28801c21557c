"""Upcasting: old events are converted when they are read. The log keeps them as they were written.

When the shape of a type changes so that `domain.language.events` cannot decode the old one, add a
function here that converts the old JSON object to the next version's. It is applied when such an
event is read, and new events are written with the next version. An added field with a default needs
no upcaster.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.language.errors import LogTooNew
from domain.language.events import VERSION, Event, decode

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

# By type and the version that it converts from. Never remove one.
UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {}


class _Tagged(Struct):
    type: str


_type_of = msgspec.json.Decoder(_Tagged).decode


def version_of(type_name: str) -> int:
    """Return the version that events of a type are written with."""
    version = VERSION
    while UPCASTERS and (type_name, version) in UPCASTERS:
        version += 1
    return version


def is_current(version: int) -> bool:
    """Return True if events of this version, of any type, need no upcaster."""
    return version == VERSION and not UPCASTERS


def read(version: int, data: bytes) -> Event:
    """Decode a stored event of any version.

    Raises `LogTooNew` for a version that this release does not know, and `msgspec.MsgspecError` for
    data that no release wrote.
    """
    if version == VERSION and not UPCASTERS:  # `is_current` without the call, for speed
        return decode(data)
    type_name = _type_of(data).type
    current = version_of(type_name)
    if version > current:
        raise LogTooNew(
            f"There is an event {type_name} of version {version}, and this release knows up to "
            f"{current}; install the newer release here too."
        )
    if version < VERSION:
        raise msgspec.ValidationError(f"No release wrote an event of version {version}")
    if version == current:
        return decode(data)
    fields: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    for older in range(version, current):
        fields = UPCASTERS[type_name, older](fields)
    return decode(msgspec.json.encode(fields))
