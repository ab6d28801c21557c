"""The format of a segment: a Parquet file with the columns of the log's rows, and their bodies.

One row per event, in log order, in groups of at most `ROWS_PER_GROUP` rows that can be read one by
one. `body` is null where the event has no body or it was erased. Between the last group and the
footer lies the state of the system after the last event (ADR 59). The footer has the entry
`fairlog` with a JSON object: `SegmentContent`. Any tool for Parquet can read it (ADR 51).
"""

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from domain.language.errors import FairlogError, LogCorrupt
from domain.log.stored_log import StoredRow

ROWS_PER_GROUP: Final = 5_000
BYTES_PER_GROUP: Final = 32 * 1024 * 1024  # of data and bodies, before compression
FOOTER_KEY: Final = b"fairlog"
FORMAT: Final = "fairlog-segment-1"
COLUMNS: Final = (
    "position",
    "type",
    "version",
    "user_id",
    "job_id",
    "recorded_at",
    "data",
    "hash",
)
BODY: Final = "body"
# Higher levels take twice the time for 2 % of the size, see ADR 51.
COMPRESSION_LEVEL: Final = 3


class StoredState(NamedTuple):
    """The state of the system after the last event of a segment, as it is stored."""

    format: str  # see `domain.audit.system_state.FORMAT`; of an earlier release it may be another
    data: bytes  # as `domain.audit.system_state.to_snapshot` returns it


class StatePart(Struct, frozen=True, kw_only=True):
    """The place of the state in a segment's file, and its digest."""

    format: str
    offset: int  # of its first byte in the file
    size: int  # in the file, in bytes, compressed with zstd
    sha256: str  # before compression, in hex


class SegmentContent(Struct, frozen=True, kw_only=True):
    """The description of a segment in its file, as in `domain.log.segments.Segment`."""

    format: str = FORMAT
    first: int
    last: int
    first_recorded_at: int
    last_recorded_at: int
    previous_hash: str
    last_hash: str
    roots: Sequence[str]
    bodies: int
    log_id: str
    state: StatePart | None = None  # None: of a release that wrote none


class Arrow(NamedTuple):
    """The modules of pyarrow, which has no types."""

    base: Any
    parquet: Any
    compute: Any
    schema: Any


@cache
def arrow() -> Arrow:
    """Import pyarrow, which few commands need. Raises `FairlogError` if it is not installed."""
    try:
        base: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
        compute: Any = importlib.import_module("pyarrow.compute")
    except ImportError:
        raise FairlogError(
            "An archive needs pyarrow: install it with Fairlog (pip install fairlog[parquet])."
        ) from None
    types = {
        "position": base.int64(),
        "type": base.string(),
        "version": base.int32(),
        "user_id": base.string(),
        "job_id": base.int64(),
        "recorded_at": base.timestamp("us", tz="UTC"),
        "data": base.string(),
        "hash": base.binary(32),
        BODY: base.string(),
    }
    nullable = {"user_id", "job_id", BODY}
    fields = [base.field(name, kind, name in nullable) for name, kind in types.items()]
    return Arrow(base, parquet, compute, base.schema(fields))


def table_of(rows: Sequence[StoredRow], bodies: Sequence[bytes | None]) -> Any:  # noqa: ANN401 (see `Arrow`)
    """Return rows of the log with their bodies as a table. Raises `LogCorrupt` if a text is not
    UTF-8, which Fairlog never writes.
    """
    base, _, _, schema = arrow()
    position, types, version, user_id, job_id, recorded_at, data, hashes = zip(*rows, strict=True)
    int64, binary, string = base.int64(), base.binary(), base.string()
    try:
        columns = [
            base.array(position, int64),
            base.array(types, string),
            base.array(version, base.int32()),
            base.array(user_id, binary).cast(string),
            base.array(job_id, int64),
            base.array(recorded_at, int64).cast(schema.field("recorded_at").type),
            base.array(data, binary).cast(string),
            base.array(hashes, base.binary(32)),
            base.array(bodies, binary).cast(string),
        ]
    except (base.ArrowInvalid, base.ArrowTypeError) as error:
        raise LogCorrupt(
            f"Events {position[0]} to {position[-1]} hold what Fairlog never writes ({error}); "
            "run `fairlog verify`."
        ) from None
    return base.table(columns, schema=schema)


def compressed(data: bytes) -> bytes:
    """Return bytes as a zstd frame."""
    codec = arrow().base.Codec("zstd", compression_level=COMPRESSION_LEVEL)
    packed: bytes = codec.compress(data, asbytes=True)
    return packed


def decompressed(data: bytes) -> bytes:
    """Return the bytes of a zstd frame. Raises `OSError`."""
    base = arrow().base
    with base.input_stream(base.py_buffer(data), compression="zstd") as stream:
        found: bytes = stream.read()
    return found


def rows_of(table: Any) -> list[StoredRow]:  # noqa: ANN401 (see `Arrow`)
    """Return the rows of a table with COLUMNS, as the log's table gives them."""
    base = arrow().base
    int64, binary = base.int64(), base.binary()
    return list(
        zip(
            table["position"].to_pylist(),
            table["type"].to_pylist(),
            table["version"].to_pylist(),
            table["user_id"].cast(binary).to_pylist(),
            table["job_id"].to_pylist(),
            table["recorded_at"].cast(int64).to_pylist(),
            table["data"].cast(binary).to_pylist(),
            table["hash"].to_pylist(),
            strict=True,
        )
    )


encode_content: Final = msgspec.json.Encoder().encode
decode_content: Final = msgspec.json.Decoder(SegmentContent).decode
