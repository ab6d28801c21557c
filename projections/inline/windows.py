"""The windows projection: the latest windows of each user, and the limits that were set.

A new window overwrites the row of the one before of the same length, so the rows do not grow with
time.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.language.identifiers import GLOBAL, Kind, PlanName, ResourceName, UserId
from domain.language.moments import to_micros
from domain.limits.limits import EVERYONE, NONE, Limits, LimitSettings, Subject
from domain.limits.rate_limits import Counter, WindowKey, Windows
from projections.storage.rows import (
    Document,
    Identifier,
    Row,
    deleting,
    generation,
    placeholder,
    union,
    upserting,
)

VERSION: Final = 3
metadata = sa.MetaData()

window_counters = sa.Table(
    f"window_counters_v{VERSION}",
    metadata,
    generation(),
    sa.Column("user_id", Identifier, primary_key=True, comment="empty: all users together"),
    sa.Column("window_seconds", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("window_start", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
)

# A subject without limits has no row, except a plan that exists, and all users together.
limits = sa.Table(
    f"limits_v{VERSION}",
    metadata,
    generation(),
    sa.Column("user_id", Identifier, primary_key=True, comment="empty: of no single user"),
    sa.Column("kind", Identifier, primary_key=True, comment="empty: of all kinds"),
    sa.Column("resource", Identifier, primary_key=True, comment="empty: of no resource"),
    sa.Column("plan", Identifier, primary_key=True, comment="empty: of no plan"),
    sa.Column(
        "members",
        sa.BigInteger,
        nullable=False,
        comment="users on the plan; of all users together: their kinds that have limits",
    ),
    sa.Column("document", Document, nullable=False, comment="JSON of the limits"),
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Limits).decode
_KEYS: Final = (limits.c.user_id, limits.c.kind, limits.c.resource, limits.c.plan)
_KEY: Final = ", ".join(column.name for column in _KEYS)


class WindowsProjection:
    """Loads and writes counters of windows, and limits."""

    name = "windows"
    version = VERSION
    is_lasting = True
    tables = (window_counters, limits)

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Load counters and limits in one statement; a row of limits has no window.

        All windows of a user are loaded together, whatever their lengths: the user's limits say
        which of them count. The first load reads the limits of all that is no user.
        """
        counted = {user_id.encode() for user_id, _ in required.windows}
        users = {user_id.encode() for user_id in required.users if user_id} | counted
        users.discard(GLOBAL.encode())
        if not model.limits.is_read:
            users.add(GLOBAL.encode())
        mark = placeholder(connection)
        selects: list[tuple[str, list[object]]] = []
        if counted:
            columns = "user_id, NULL AS kind, NULL AS resource, NULL AS plan, NULL AS document"
            of_windows = (
                f"SELECT {columns}, window_seconds, window_start, used, refused"
                f" FROM {window_counters.name} WHERE generation = {mark}"
                f" AND user_id IN ({', '.join([mark] * len(counted))})"
            )
            selects.append((of_windows, [generation, *counted]))
        if users:
            of_limits = (
                f"SELECT {_KEY}, document, NULL, NULL, members, NULL"
                f" FROM {limits.name} WHERE generation = {mark}"
                f" AND user_id IN ({', '.join([mark] * len(users))})"
            )
            selects.append((of_limits, [generation, *users]))
        _put(union(connection, selects), model)
        model.limits.is_read = True

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        windows, settings = model.windows, model.limits
        counters = [(key, windows.counters[key]) for key in windows.changed_counters]
        changed = [
            (subject, settings.of(subject), settings.members(subject))
            for subject in settings.changed
        ]
        stored = [one for one in changed if _is_stored(one[0], one[1])]
        removed = [_key(subject) for subject, one, _ in changed if not _is_stored(subject, one)]
        windows.changed_counters.clear()
        settings.changed.clear()
        return [
            *upserting(window_counters, counters, partial(_counter_row, generation)),
            *([deleting(limits, generation, removed)] if removed else []),
            *upserting(limits, stored, partial(_limits_row, generation)),
        ]


def _is_stored(subject: Subject, setting: Limits) -> bool:
    return setting != NONE or subject == EVERYONE


def _counter_row(generation: int, counted: tuple[WindowKey, Counter]) -> Row:
    (user_id, seconds), counter = counted
    return (generation, user_id.encode(), seconds, counter.start, counter.used, counter.refused)


def _key(subject: Subject) -> Row:
    return tuple(name.encode() for name in subject)


def _limits_row(generation: int, changed: tuple[Subject, Limits, int]) -> Row:
    subject, setting, members = changed
    return (generation, *_key(subject), members, _encode(setting))


def _subject(user: bytes, kind: bytes, resource: bytes, plan: bytes) -> Subject:
    return Subject(
        UserId(bytes(user).decode()),
        Kind(bytes(kind).decode()),
        ResourceName(bytes(resource).decode()),
        PlanName(bytes(plan).decode()),
    )


def _put(found: Iterable[Any], model: WriteModel) -> None:
    """Put rows into the model; what is in memory is newer."""
    settings = model.limits
    for user, kind, resource, plan, document, seconds, start, first, second in found:
        if document is None:
            counter = Counter(start, first, second)
            model.windows.counters.setdefault((UserId(user.decode()), seconds), counter)
            continue
        subject = _subject(user, kind, resource, plan)
        if subject.user_id:
            if not settings.has(subject):
                settings.put(subject, _decode(document))
        elif not settings.is_read:
            settings.put(subject, _decode(document))
            settings.put_members(subject, first)


class Usage(NamedTuple):
    """Windows, and the limits that they are under."""

    windows: Windows
    limits: LimitSettings


class WindowQueries:
    """Queries windows and limits of one generation: the current one, or an expression for it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def load(self, connection: Connection, user_ids: Sequence[UserId], now: datetime) -> Usage:
        """Return the windows of `now` and the limits, of these users and of all users together.

        Plans are all there; limits of kinds and resources are left out.
        """
        subjects = [GLOBAL.encode(), *(user_id.encode() for user_id in user_ids)]
        windows = Windows()
        counted = connection.execute(
            sa.select(*window_counters.c[1:]).where(
                window_counters.c.generation == self._generation,
                window_counters.c.user_id.in_(subjects),
            )
        )
        for user, seconds, start, used, refused in counted:
            if start + seconds * 1_000_000 > to_micros(now):
                key = (UserId(bytes(user).decode()), seconds)
                windows.counters[key] = Counter(start, used, refused)
        query = self._select().where(
            limits.c.user_id.in_(subjects), limits.c.kind == b"", limits.c.resource == b""
        )
        return Usage(windows, _settings(connection.execute(query)))

    def of_subjects(self, connection: Connection, subjects: Sequence[Subject]) -> LimitSettings:
        """Return the limits that are set for these subjects themselves."""
        keys = [
            sa.and_(*(column == name for column, name in zip(_KEYS, _key(one), strict=True)))
            for one in subjects
        ]
        return _settings(connection.execute(self._select().where(sa.or_(*keys))))

    def set_names(
        self,
        connection: Connection,
        what: Literal["plan", "kind", "resource"],
        after: str,
        limit: int,
    ) -> list[tuple[str, Limits, int]]:
        """Return the next `limit` plans, kinds or resources that have limits, by their bytes, each
        with its limits and members.
        """
        column = limits.c[what]
        others = [one == b"" for one in _KEYS if one is not column]
        query = self._select().where(*others, column > after.encode())
        rows = connection.execute(query.order_by(column).limit(limit))
        return [
            (max(bytes(name) for name in names).decode(), _decode(document), members)
            for *names, members, document in rows
        ]

    def limits_of(self, connection: Connection, user_ids: Collection[UserId]) -> LimitSettings:
        """Return the limits of these users, and all that are not a user's."""
        settings = LimitSettings()
        named = [GLOBAL.encode(), *(user_id.encode() for user_id in user_ids)]
        query = self._select().where(limits.c.user_id.in_(named))
        for *names, members, document in connection.execute(query):
            subject = _subject(*names)
            settings.put(subject, _decode(document))
            settings.put_members(subject, members)
        return settings

    def set_limits(
        self, connection: Connection, after: Subject | None, limit: int
    ) -> list[tuple[Subject, Limits]]:
        """Return the next `limit` subjects that have limits of their own, with these.

        All that is no user comes first, then users, by their bytes. None: from the start.
        """
        query = self._select()
        if after is not None:
            query = query.where(_is_after(_KEYS, _key(after)))
        rows = connection.execute(query.order_by(*_KEYS).limit(limit))
        return [(_subject(*names), _decode(document)) for *names, _, document in rows]

    def _select(self) -> sa.Select[Any]:
        return sa.select(*_KEYS, limits.c.members, limits.c.document).where(
            limits.c.generation == self._generation
        )


def _settings(rows: Iterable[Any]) -> LimitSettings:
    settings = LimitSettings()
    for *names, members, document in rows:
        subject = _subject(*names)
        settings.put(subject, _decode(document))
        settings.put_members(subject, members)
    return settings


def _is_after(
    columns: Sequence[sa.ColumnElement[Any]], values: Sequence[bytes]
) -> sa.ColumnElement[bool]:
    """Return the condition that a row's key comes after these values."""
    column, value = columns[0], values[0]
    if len(columns) == 1:
        return column > value
    return sa.and_(column >= value, sa.or_(column > value, _is_after(columns[1:], values[1:])))
