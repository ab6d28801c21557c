"""Writes one segment, with one group of rows in memory."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol, Self

from adapters.archive.segment_format import (
    BODY,
    BYTES_PER_GROUP,
    COMPRESSION_LEVEL,
    FOOTER_KEY,
    ROWS_PER_GROUP,
    SegmentContent,
    StatePart,
    StoredState,
    arrow,
    compressed,
    encode_content,
    table_of,
)
from domain.language.errors import LogCorrupt
from domain.log.segments import SegmentRows
from domain.log.stored_log import StoredRow

# Columns with few values in a group, and numbers that rise.
_REPEATING: Final = ["type", "version", "user_id", "recorded_at"]
_RISING: Final = {"position": "DELTA_BINARY_PACKED", "job_id": "DELTA_BINARY_PACKED"}
_DATA: Final = 6  # of a row

Bodies = Iterable[tuple[int, bytes]]  # by position, which rises
StateAtEnd = Callable[[], StoredState | None]  # called when all rows were taken


class Target(Protocol):
    """A file that is written from its beginning to its end."""

    def write(self, data: bytes) -> int: ...

    def tell(self) -> int: ...

    def flush(self) -> None: ...


def write_segment(
    file: Target,
    pages: Iterable[Sequence[StoredRow]],
    bodies: Bodies,
    rows: SegmentRows,
    log_id: str | None,
    state: StateAtEnd = lambda: None,
) -> SegmentContent:
    """Write all rows and bodies to an open file, and return what they are.

    `rows` knows where they begin. `log_id` is needed unless they begin with the log. `state`
    returns the state of the system after the last row. Raises `LogCorrupt` for rows that do not
    continue the chain, and for a body without an event.
    """
    first, previous_hash = rows.position + 1, rows.last_hash
    found = _Bodies(bodies)
    with _Groups(file) as groups:
        for page in pages:
            for row in page:
                wrong = rows.take(row)
                if wrong is not None:
                    raise LogCorrupt(f"Nothing is archived: {wrong}; run `fairlog verify`.")
                groups.add(row, found.at(row[0]))
        found.require_end(rows.position)
        if rows.position < first:
            raise LogCorrupt(f"Nothing is archived: the log has no event {first}.")
        content = SegmentContent(
            first=first,
            last=rows.position,
            first_recorded_at=rows.first_recorded_at,
            last_recorded_at=rows.last_recorded_at,
            previous_hash=previous_hash.hex(),
            last_hash=rows.last_hash.hex(),
            roots=rows.roots(),
            bodies=found.taken,
            log_id=log_id or rows.log_id.hex(),
            state=groups.add_state(state()),
        )
        groups.finish(content)
    return content


class _Groups:
    """Collects rows into groups of a Parquet file."""

    def __init__(self, file: Target) -> None:
        base, parquet, _, schema = arrow()
        self._file = file
        self._sink = base.PythonFile(file, mode="w")
        self._writer = parquet.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=_REPEATING,
            column_encoding=_RISING,
            write_page_checksum=True,
        )
        self._rows: list[StoredRow] = []
        self._bodies: list[bytes | None] = []
        self._bytes = 0

    def add(self, row: StoredRow, body: bytes | None) -> None:
        self._rows.append(row)
        self._bodies.append(body)
        self._bytes += len(row[_DATA]) + len(body or b"")
        if len(self._rows) >= ROWS_PER_GROUP or self._bytes >= BYTES_PER_GROUP:
            self._flush()

    def add_state(self, state: StoredState | None) -> StatePart | None:
        """Write the state after the last row, and return where it is."""
        self._flush()
        if state is None:
            return None
        packed, offset = compressed(state.data), self._file.tell()
        self._sink.write(packed)
        digest = sha256(state.data).hexdigest()
        return StatePart(format=state.format, offset=offset, size=len(packed), sha256=digest)

    def finish(self, content: SegmentContent) -> None:
        self._writer.add_key_value_metadata({FOOTER_KEY: encode_content(content)})
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # After an error too, while the file is open: the writer would do it when it is collected.
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            table: Any = table_of(self._rows, self._bodies)
            self._writer.write_table(table, row_group_size=len(self._rows))
            self._rows, self._bodies, self._bytes = [], [], 0


class _Bodies:
    """Hands out bodies by rising positions."""

    def __init__(self, bodies: Bodies) -> None:
        self.taken = 0
        self._left: Iterator[tuple[int, bytes]] = iter(bodies)
        self._next = next(self._left, None)

    def at(self, position: int) -> bytes | None:
        """Return the body at a position, which rises from call to call; None: it has none."""
        if self._next is None or self._next[0] > position:
            return None
        found, body = self._next
        if found < position or not isinstance(body, bytes):
            raise _wrong_body(found)
        self.taken += 1
        self._next = next(self._left, None)
        return body

    def require_end(self, position: int) -> None:
        """Refuse a body after the last row."""
        if self._next is not None:
            raise _wrong_body(max(position, self._next[0]))


def _wrong_body(position: int) -> LogCorrupt:
    return LogCorrupt(
        f"Nothing is archived: the {BODY} at {position} belongs to no event, or is no bytes; run "
        "`fairlog verify`."
    )
