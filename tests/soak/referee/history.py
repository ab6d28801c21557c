"""Reads a whole log: the archived part from its segment files, the rest by plain SQL."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.sql import connect, rows

_ROWS_PER_PAGE: Final = 5_000
_COLUMNS: Final = (
    "e.position, e.version, e.type, e.user_id, e.job_id, e.recorded_at, e.data, e.hash, b.body"
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as it is stored."""

    position: int
    at: int  # Unix time in microseconds
    type: str
    user: str | None
    job: int | None
    data: dict[str, Any]
    body: bytes | None = None  # None: it has none, or it was erased
    version: int = 1
    text: bytes = b""  # `data` as it was hashed
    hash: bytes = b""


def micros(text: str) -> int:
    """Return the Unix time in microseconds of a time in RFC 3339."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


def hash_after(before: bytes, event: Event) -> bytes:
    """Return the hash of the chain at an event, by the page on the log."""
    fields = (
        _number(event.position),
        _number(event.version),
        event.type.encode(),
        None if event.user is None else event.user.encode(),
        None if event.job is None else _number(event.job),
        _number(event.at),
        event.text,
    )
    entry = b"".join(
        b"\xff\xff\xff\xff" if field is None else len(field).to_bytes(4, "big") + field
        for field in fields
    )
    return sha256(before + sha256(b"\0" + entry).digest()).digest()


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def whole_log(url: str, archive: Path, findings: Findings) -> Iterator[Event]:
    """Yield every event in order, and check what connects rows, segments and head."""
    with closing(connect(url)) as connection:
        position, last_hash = 0, bytes(32)
        named = rows(
            connection,
            "SELECT position, data FROM events WHERE type = 'SegmentArchived' ORDER BY position",
        )
        for _, data in named:
            segment = json.loads(data)
            file = archive / segment["name"]
            is_whole = file.exists() and _digest(file) == segment["sha256"]
            findings.check(Rule.SEGMENTS, is_whole, "not the file of its event:", file.name)
            follows = (segment["first"], segment["previous_hash"]) == (
                position + 1,
                last_hash.hex(),
            )
            findings.check(Rule.SEGMENTS, follows, file.name, "does not follow", position)
            if is_whole:
                for event in _of_segment(file):
                    position, last_hash = event.position, event.hash
                    yield event
        while page := _page(connection, position):
            for event in page:
                position, last_hash = event.position, event.hash
                yield event
        [(head, head_hash)] = rows(connection, "SELECT position, hash FROM log_head")
        findings.check(
            Rule.HEAD,
            (head, bytes(head_hash)) == (position, last_hash),
            f"the head row has {head}, the last event is {position}",
        )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        digest = sha256()
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _of_segment(file: Path) -> Iterator[Event]:
    parquet = pq.ParquetFile(file)
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group)
        times = table["recorded_at"].cast("int64").to_pylist()
        for row, at in zip(table.drop_columns(["recorded_at"]).to_pylist(), times, strict=True):
            yield Event(
                position=row["position"],
                at=at,
                type=row["type"],
                user=row["user_id"],
                job=row["job_id"],
                data=json.loads(row["data"]),
                body=None if row["body"] is None else row["body"].encode(),
                version=row["version"],
                text=row["data"].encode(),
                hash=row["hash"],
            )


def _page(connection: Any, after: int) -> list[Event]:
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM events e LEFT JOIN bodies b ON b.position = e.position "
        f"WHERE e.position > {after} ORDER BY e.position LIMIT {_ROWS_PER_PAGE}",
    )
    return [
        Event(
            position=position,
            at=at,
            type=name,
            user=None if user is None else bytes(user).decode(),
            job=job,
            data=json.loads(text),
            body=None if body is None else bytes(body),
            version=version,
            text=bytes(text),
            hash=bytes(event_hash),
        )
        for position, version, name, user, job, at, text, event_hash, body in found
    ]
