"""Writes any part of the log to a file, as NDJSON, CSV or Parquet, with one page in memory."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final, Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter, StoredEvent
from domain.language.errors import FairlogError
from entrypoints.runtime.csv_cells import csv_lines
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import EventView, event_view
from entrypoints.use_cases.jobs_today import jobs_today

EVENTS_PER_PAGE: Final = 1000
EVENTS_PER_PAGE_WITH_BODIES: Final = 32  # of up to 1 MiB each
FORMATS: Final = ("ndjson", "csv", "parquet")


class ExportedEvent(EventView, frozen=True, kw_only=True):
    """An event as in `GET /v1/audit`; with bodies, also its payload, result or error."""

    body: Raw | UnsetType = UNSET  # null if the event has none, or it was erased
    erased: bool | UnsetType = UNSET  # true if the event had a body that was erased


class ExportFormat(Protocol):
    """A writer of events to an open file."""

    def write(self, events: Sequence[ExportedEvent]) -> None:
        """Add events, which may be buffered."""

    def close(self) -> None:
        """Write what is buffered. The file itself stays open."""


def pages(
    fairlog: Fairlog,
    wanted: EventFilter,
    between: tuple[int, int],
    *,
    bodies: bool,
    per_page: int = EVENTS_PER_PAGE,
) -> Iterator[list[ExportedEvent]]:
    """Yield the events between two positions, both exclusive, in log order.

    A page has up to `per_page` events; with `bodies`, at most EVENTS_PER_PAGE_WITH_BODIES.
    """
    after, end = between
    events_max = min(per_page, EVENTS_PER_PAGE_WITH_BODIES) if bodies else per_page

    def read(connection: Connection) -> list[ExportedEvent]:
        found = fairlog.past.find(connection, wanted, after, min(events_max, end - after - 1))
        inside = [event for event in found if event.position < end]
        return _exported(fairlog, connection, inside) if bodies else list(map(_bare, inside))

    while after < end - 1 and (page := fairlog.read_now(read)):
        yield page
        after = page[-1].position


def _exported(
    fairlog: Fairlog, connection: Connection, events: Sequence[StoredEvent]
) -> list[ExportedEvent]:
    found = fairlog.past.bodies_at(connection, [event.position for event in events])
    named = [event.job_id for event in events if event.job_id is not None]
    jobs = jobs_today(fairlog, connection, named)
    erased = {job.id for job in jobs.values() if job.erased_at is not None}
    audit_log.require_bodies(
        found,
        (event.position for event in events if event.job_id not in erased and _had_body(event)),
    )
    return [
        msgspec.structs.replace(
            _bare(event),
            # A segment that is not written anew yet has a body that was erased.
            body=Raw(b"null" if event.job_id in erased else found.get(event.position, b"null")),
            erased=event.job_id in erased and _had_body(event),
        )
        for event in events
    ]


def _had_body(event: StoredEvent) -> bool:
    data = msgspec.json.decode(event.data, type=dict[str, Any])
    return any(data.get(f"{name}_sha256") for name in ("payload", "result", "error"))


def _bare(event: StoredEvent) -> ExportedEvent:
    return ExportedEvent(**msgspec.structs.asdict(event_view(event)))


def export_format(name: str, file: BinaryIO, *, bodies: bool) -> ExportFormat:
    """Return a writer of the format `name`, one of FORMATS.

    Raises `FairlogError` for Parquet if pyarrow is not installed.
    """
    match name:
        case "ndjson":
            return _Ndjson(file)
        case "csv":
            return _Csv(file, _columns(bodies=bodies))
        case _:
            return _Parquet(file, _columns(bodies=bodies))


def _columns(*, bodies: bool) -> list[str]:
    names = ExportedEvent.__struct_fields__
    return [name for name in names if bodies or name not in {"body", "erased"}]


class _Ndjson:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, events: Sequence[ExportedEvent]) -> None:
        self._file.write(self._encoder.encode_lines(events))

    def close(self) -> None:
        pass


class _Csv:
    def __init__(self, file: BinaryIO, columns: Sequence[str]) -> None:
        self._file = file
        self._columns = columns
        self._write([columns])

    def write(self, events: Sequence[ExportedEvent]) -> None:
        self._write([[getattr(event, name) for name in self._columns] for event in events])

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        self._file.write(csv_lines(rows).encode())

    def close(self) -> None:
        pass


class _Parquet:
    """A writer of Parquet. JSON stays text, so that any tool can read it."""

    _ROWS_PER_GROUP: Final = 20_000
    _BYTES_PER_GROUP: Final = 32 * 1024 * 1024

    def __init__(self, file: BinaryIO, columns: Sequence[str]) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise FairlogError(
                "Parquet needs pyarrow: install it with Fairlog (pip install fairlog[parquet])."
            ) from None
        arrow = self._arrow
        types = {
            "position": arrow.int64(),
            "version": arrow.int32(),
            "job_id": arrow.int64(),
            "recorded_at": arrow.timestamp("us", tz="UTC"),
            "erased": arrow.bool_(),
        }
        self._columns = columns
        self._schema = arrow.schema([(name, types.get(name, arrow.string())) for name in columns])
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[ExportedEvent] = []
        self._bytes = 0

    def write(self, events: Sequence[ExportedEvent]) -> None:
        self._waiting += events
        self._bytes += sum(
            len(bytes(event.data)) + (len(bytes(event.body)) if event.body is not UNSET else 0)
            for event in events
        )
        if len(self._waiting) >= self._ROWS_PER_GROUP or self._bytes >= self._BYTES_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns = {
            name: [_arrow_value(getattr(event, name)) for event in self._waiting]
            for name in self._columns
        }
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._waiting, self._bytes = [], 0


def _arrow_value(value: object) -> object:
    return bytes(value).decode(errors="replace") if isinstance(value, Raw) else value
