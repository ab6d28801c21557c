"""Old events read as new ones. The log keeps each as it was written, for ever.

When the shape of a type changes so that `domain.language.events` cannot read the old one any more,
a function is added here that turns the old JSON object into the next version's; it is applied when
such an event is read, and new events are written with the next version. An added field with a
default needs none of that.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.language.errors import LogTooNew
from domain.language.events import VERSION, Event, decode

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

# By the type, and the version that it makes the next one of. Never remove one.
UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {}


class _Tagged(Struct):
    type: str


_type_of = msgspec.json.Decoder(_Tagged).decode


def version_of(type_name: str) -> int:
    """The version that events of a type are written with."""
    version = VERSION
    while UPCASTERS and (type_name, version) in UPCASTERS:
        version += 1
    return version


def is_current(version: int) -> bool:
    """Whether an event of this version, of whatever type, is read as it stands."""
    return version == VERSION and not UPCASTERS


def read(version: int, data: bytes) -> Event:
    """Read a stored event of any version.

    Raises `LogTooNew` for a version that this release does not know, and `msgspec.MsgspecError` for
    what no release wrote.
    """
    if version == VERSION and not UPCASTERS:  # `is_current`, which would be another call an event
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
