"""Audit queries of the log: events by filter, the position at a moment, bodies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log.archived import cut
from adapters.log.event_log import head_position
from adapters.log.tables import HEAD_ID, bodies, events, log_head
from domain.access.keys import ApiKey, byte_ranges
from domain.access.rights import Right
from domain.language.errors import BodyMissing, LogCorrupt
from domain.language.events import caused_by
from domain.language.identifiers import JobId, KeyName, Kind, UserId
from domain.language.moments import from_micros, to_micros

BODIES_SEARCHED_MAX: Final = 20  # by one statement; each may have 1 MiB


class StoredEvent(Struct, frozen=True, gc=False):
    """A row of the log as it is stored, not decoded and not upcast."""

    position: int
    type: str
    version: int
    user_id: UserId | None
    job_id: JobId | None
    recorded_at: datetime  # UTC
    data: bytes  # compact JSON
    hash: bytes


class EventFilter(Struct, frozen=True, kw_only=True):
    """A filter of events; every condition that is set must hold."""

    user_id: UserId | None = None
    job_id: JobId | None = None
    types: Sequence[str] = ()  # any of them; empty: all types
    since: datetime | None = None  # UTC, inclusive
    until: datetime | None = None  # UTC, exclusive
    by: KeyName | None = None  # caused by this API key
    seen_by: ApiKey | None = None  # that this API key may see

    @property
    def may_match_little(self) -> bool:
        """True if no index gives the matching events, so that many rows may be read for each."""
        one_type_each = len(self.types) <= 1
        unindexed = self.by is not None or (self.seen_by is not None and self.user_id is None)
        conditions = (self.user_id is not None) + bool(self.types) + unindexed
        return self.job_id is None and (conditions > 1 or unindexed or not one_type_each)

    def matches(self, event: StoredEvent) -> bool:
        """Return True if an event matches, times aside."""
        return (
            (self.user_id is None or event.user_id == self.user_id)
            and (self.job_id is None or event.job_id == self.job_id)
            and (not self.types or event.type in self.types)
            and (self.by is None or caused_by(event.data) == self.by)
            and (self.seen_by is None or _is_seen(self.seen_by, event))
        )


def limited_to(wanted: EventFilter, key: ApiKey | None) -> EventFilter:
    """Return the filter for the events that an API key may see; None: all of them.

    A key sees the events about its users, and with kinds only those about jobs of these kinds.
    """
    if key is None or Right.READ_ALL in key.rights:
        return wanted
    only_user = key.only_user
    if only_user is not None and wanted.user_id is None:
        wanted = replace(wanted, user_id=only_user)
    return replace(wanted, seen_by=key)


def find(connection: Connection, wanted: EventFilter, after: int, limit: int) -> list[StoredEvent]:
    """Return up to `limit` matching events after that position, in log order."""
    query = _matching(connection, wanted).where(events.c.position > after)
    return _all(connection, query.order_by(events.c.position).limit(limit))


def find_newest(
    connection: Connection, wanted: EventFilter, below: int | None, limit: int
) -> list[StoredEvent]:
    """Return up to `limit` matching events below that position, or the latest; newest first."""
    query = _matching(connection, wanted)
    if below is not None:
        query = query.where(events.c.position < below)
    return _all(connection, query.order_by(events.c.position.desc()).limit(limit))


def position_before_newest(
    connection: Connection, wanted: EventFilter, below: int, count: int
) -> int:
    """Return the position of the newest match below `below` but for `count` newer ones; 0 if there
    are no more than `count`.
    """
    query = _matching(connection, wanted).where(events.c.position < below)
    skipped = query.with_only_columns(events.c.position).order_by(events.c.position.desc())
    return connection.execute(skipped.offset(count).limit(1)).scalar_one_or_none() or 0


def count_between(connection: Connection, wanted: EventFilter, after: int, below: int) -> int:
    """Return the number of matching events between two positions, both exclusive."""
    between = sa.and_(events.c.position > after, events.c.position < below)
    query = _matching(connection, wanted).where(between)
    return connection.execute(query.with_only_columns(sa.func.count())).scalar_one()


def first_at(connection: Connection, moment: datetime, after: int = 0) -> int:
    """Return the position of the first event at or after a moment; head + 1 if there is none.

    A binary search: recorded times never go back. Only events after the position `after` are read,
    and only those that are not archived.
    """
    micros = to_micros(moment)
    low, high = max(after, cut(connection).position) + 1, head_position(connection) + 1
    while low < high:
        middle = (low + high) // 2
        found = connection.execute(
            sa.select(events.c.recorded_at).where(events.c.position == middle)
        ).scalar_one_or_none()
        if found is None:
            raise LogCorrupt(f"The log has no event at position {middle}.")
        if found < micros:
            low = middle + 1
        else:
            high = middle
    return low


def body_positions(connection: Connection, after: int, up_to: int, limit: int) -> list[int]:
    """Return the positions of up to `limit` stored bodies, in order: above `after`, at most
    `up_to`.
    """
    return list(
        connection.execute(
            sa.select(bodies.c.position)
            .where(bodies.c.position > after, bodies.c.position <= up_to)
            .order_by(bodies.c.position)
            .limit(limit)
        ).scalars()
    )


def is_before_cut(connection: Connection, moment: datetime) -> bool:
    """Return True if the archived part of the log ends after a moment."""
    head = sa.select(log_head.c.closed_at, log_head.c.archived).where(log_head.c.id == HEAD_ID)
    closed_at, archived = connection.execute(head).one()
    return bool(archived) and to_micros(moment) < closed_at


def times_at(connection: Connection, positions: Sequence[int]) -> dict[int, datetime]:
    """Return when the events at those positions were recorded, UTC."""
    rows = connection.execute(
        sa.select(events.c.position, events.c.recorded_at).where(events.c.position.in_(positions))
    )
    return {position: from_micros(recorded_at) for position, recorded_at in rows}


def jobs_at(connection: Connection, positions: Sequence[int]) -> dict[int, JobId]:
    """Return the jobs of the events at those positions, if they have one."""
    rows = connection.execute(
        sa.select(events.c.position, events.c.job_id).where(
            events.c.position.in_(positions), events.c.job_id.is_not(None)
        )
    )
    return {position: JobId(job_id) for position, job_id in rows}


def bodies_at(connection: Connection, positions: Sequence[int]) -> dict[int, bytes]:
    """Return the bodies at those positions, as far as they exist."""
    found: dict[int, bytes] = {}
    for start in range(0, len(positions), 500):
        rows = connection.execute(
            sa.select(bodies.c.position, bodies.c.body).where(
                bodies.c.position.in_(positions[start : start + 500])
            )
        )
        found.update((position, bytes(body)) for position, body in rows)
    return found


def require_bodies(found: Mapping[int, bytes], positions: Iterable[int]) -> None:
    """Raise `BodyMissing` if a body at one of the positions was not found."""
    missing = [position for position in positions if position not in found]
    if missing:
        raise BodyMissing(missing)


def body_sizes(connection: Connection, positions: Sequence[int]) -> dict[int, int]:
    """Return the sizes in bytes of the bodies at those positions, as far as they exist."""
    found: dict[int, int] = {}
    for start in range(0, len(positions), 500):
        rows = connection.execute(
            sa.select(bodies.c.position, sa.func.length(bodies.c.body)).where(
                bodies.c.position.in_(positions[start : start + 500])
            )
        )
        found.update((position, size) for position, size in rows)
    return found


def body_beginnings(
    connection: Connection, positions: Sequence[int], bytes_max: int
) -> dict[int, bytes]:
    """Return the first bytes of the bodies at those positions, as far as they exist."""
    rows = connection.execute(
        sa.select(bodies.c.position, sa.func.substr(bodies.c.body, 1, bytes_max)).where(
            bodies.c.position.in_(positions)
        )
    )
    return {position: bytes(beginning) for position, beginning in rows}


def bodies_with(connection: Connection, positions: Sequence[int], text: str) -> set[int]:
    """Return those of the positions whose bodies contain a text in one of their values.

    The database searches, so that only bodies with the text are sent. It also finds the text in
    names of fields; those bodies are dropped here. At most BODIES_SEARCHED_MAX are in memory.
    """
    written = msgspec.json.encode(text)[1:-1]  # as it is written in canonical JSON
    found: set[int] = set()
    for start in range(0, len(positions), BODIES_SEARCHED_MAX):
        rows = connection.execute(
            sa.select(bodies.c.position, bodies.c.body).where(
                bodies.c.position.in_(positions[start : start + BODIES_SEARCHED_MAX]),
                sa.func.instr(bodies.c.body, sa.literal(written, sa.LargeBinary)) > 0,
            )
        )
        found.update(
            position for position, body in rows if _has_text(msgspec.json.decode(body), text)
        )
    return found


def _matching(connection: Connection, wanted: EventFilter) -> "sa.Select[*tuple[Any, ...]]":
    # Below it are at most the events that stayed, and those that are about to be deleted.
    query = sa.select(events)
    if archived := cut(connection).position:
        query = query.where(events.c.position > archived)
    if wanted.user_id is not None:
        query = query.where(events.c.user_id == wanted.user_id.encode())
    if wanted.job_id is not None:
        query = query.where(events.c.job_id == wanted.job_id)
    if wanted.types:
        # The column is ASCII, and MySQL raises an error when it is compared with other text.
        named = [name for name in wanted.types if name.isascii()]
        query = query.where(events.c.type.in_(named))
    if wanted.by is not None:
        query = query.where(_holds("by", [wanted.by]))
    if wanted.seen_by is not None:
        query = query.where(*_seen_conditions(wanted.seen_by))
    if wanted.since is not None:
        query = query.where(events.c.position >= first_at(connection, wanted.since))
    if wanted.until is not None:
        query = query.where(events.c.position < first_at(connection, wanted.until))
    if index := _ordered_index(wanted):
        # Without it MySQL intersects the index with the primary key and sorts all matches per page.
        query = query.with_hint(events, f"FORCE INDEX ({index})")  # SQLite has no such hint
    return query


def _seen_conditions(key: ApiKey) -> Iterator[sa.ColumnElement[bool]]:
    """Yield what holds of the events that a key may see, as `_is_seen` has it."""
    users = events.c.user_id
    if key.created.any_user:
        yield users.is_not(None)
    else:
        named: list[sa.ColumnElement[bool]] = [
            users.in_([user_id.encode() for user_id in key.created.users])
        ]
        if key.created.user_prefix is not None:
            ranges = byte_ranges(key.created.user_prefix)
            named += [sa.and_(users >= first, users < end) for first, end in ranges]
        yield sa.or_(*named)
    if key.created.kinds:
        yield sa.or_(events.c.job_id.is_(None), _holds("kind", key.created.kinds))


def _holds(field: str, texts: Iterable[str]) -> sa.ColumnElement[bool]:
    """Say that a field of an event is one of the texts. In the texts of an event, quotes are
    escaped, so that none of them looks like a field.
    """
    found = [b'"%s":%s' % (field.encode(), msgspec.json.encode(text)) for text in texts]
    return sa.or_(*(sa.func.instr(events.c.data, _bytes(one)) > 0 for one in found))


def _bytes(value: bytes) -> sa.ColumnElement[bytes]:
    return sa.literal(value, sa.LargeBinary)


def _is_seen(key: ApiKey, event: StoredEvent) -> bool:
    if event.user_id is None or not key.is_for_user(event.user_id):
        return False
    if not key.created.kinds or event.job_id is None:
        return True
    kind = _decode_kind(event.data).kind
    return kind is not None and key.is_for_kind(kind)


class _OfKind(Struct):
    kind: Kind | None = None


_decode_kind: Final = msgspec.json.Decoder(_OfKind).decode


def _ordered_index(wanted: EventFilter) -> str | None:
    """Return the index that gives the only condition's events in log order; None for several."""
    conditions = {
        "events_by_user": wanted.user_id is not None,
        "events_by_job": wanted.job_id is not None,
        "events_by_type": len(wanted.types) == 1,
    }
    indexes = [index for index, is_asked_for in conditions.items() if is_asked_for]
    if wanted.by is not None:
        return None
    return indexes[0] if len(indexes) == 1 and len(wanted.types) <= 1 else None


def _all(connection: Connection, query: "sa.Select[*tuple[Any, ...]]") -> list[StoredEvent]:
    return [_stored(row) for row in connection.execute(query)]


def _stored(row: Any) -> StoredEvent:  # noqa: ANN401 (a row of the events table)
    return StoredEvent(
        row.position,
        row.type,
        row.version,
        None if row.user_id is None else UserId(bytes(row.user_id).decode()),
        row.job_id,
        from_micros(row.recorded_at),
        bytes(row.data),
        bytes(row.hash),
    )


def _has_text(value: Any, text: str) -> bool:  # noqa: ANN401 (any JSON value)
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return any(_has_text(one, text) for one in inner)
    return isinstance(value, str) and text in value
