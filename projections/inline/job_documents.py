"""The document of a job's row: the job as a MessagePack array, without defaults at its end.

Values without names, and digests as bytes, take a third of what a JSON object does. Since defaults
at the end are left out, a field that is added to `Job` changes the row of no job that lacks it.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec.structs import asdict, fields

from domain.jobs.job import Job

_FIELDS: Final = len(Job.__struct_fields__)
_RARE_FROM: Final = Job.__struct_fields__.index("holder")  # this field and those after it
_rare_fields: Final[Callable[[Job], tuple[Any, ...]]] = attrgetter(
    *Job.__struct_fields__[_RARE_FROM:]
)
_DEFAULTS: Final = tuple(field.default for field in fields(Job)[_RARE_FROM:])  # a byte each
_ARRAY: Final = 0xDC  # of 16 to 65,535 values; their number follows in two bytes
_HEADER_BYTES: Final = 3
_encode: Final = msgspec.msgpack.Encoder().encode
# Raises `msgspec.DecodeError` and `msgspec.ValidationError`.
decode_job: Final[Callable[[bytes], Job]] = msgspec.msgpack.Decoder(Job).decode


def encode_job(job: Job) -> bytes:
    """Return the document of a job's row."""
    document = _encode(job)
    rare = _rare_fields(job)
    left_out = len(rare) if rare == _DEFAULTS else _defaults_at_end(rare)
    if not left_out:
        return document
    header = bytes((_ARRAY, 0, _FIELDS - left_out))
    return header + document[_HEADER_BYTES:-left_out]


def _defaults_at_end(values: tuple[Any, ...]) -> int:
    left_out = 0
    for value, default in zip(reversed(values), reversed(_DEFAULTS), strict=True):
        if value != default:
            break
        left_out += 1
    return left_out


def shown_fields(document: bytes) -> Mapping[str, Any]:
    """Return the fields of a document, for messages. Raises as `decode_job` does."""
    job = decode_job(document)
    digests = {"payload_digest": job.payload_sha256, "key": job.idempotency_key}
    return asdict(job) | digests
