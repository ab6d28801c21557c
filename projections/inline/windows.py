"""The windows projection: the latest window of each user, and the limits that were set.

A new window overwrites the row of the one before, so there are as many rows as users.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.language.identifiers import GLOBAL, Kind, UserId
from domain.language.moments import to_micros
from domain.language.policy import Policy
from domain.limits.rate_limits import Counter, Limits, Subject, WindowKey, Windows, window_start
from projections.storage.rows import (
    Identifier,
    Row,
    generation,
    placeholder,
    union,
    upserting,
)

VERSION: Final = 2
_NO_KIND: Final = Kind("")
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

limits = sa.Table(
    f"limits_v{VERSION}",
    metadata,
    generation(),
    sa.Column("user_id", Identifier, primary_key=True, comment="empty: all users together"),
    sa.Column("kind", Identifier, primary_key=True, comment="empty: the user's own"),
    sa.Column("submissions", sa.BigInteger, comment="a window; NULL: the default"),
    sa.Column("running", sa.BigInteger, comment="at once; NULL: no cap"),
)


class WindowsProjection:
    """Loads and writes counters of windows, and limits of users and kinds."""

    name = "windows"
    version = VERSION
    is_lasting = True
    tables = (window_counters, limits)

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Load counters and limits in one statement; a row of a limit has no length and no start.

        Any number of kinds may have limits, so only those that the batch names are read.
        """
        subjects = required.users | {user_id for user_id, _ in required.windows}
        if not (subjects or required.limited_kinds):
            return
        mark = placeholder(connection)
        windows: dict[int, list[bytes]] = {}
        for user_id, seconds in required.windows:
            windows.setdefault(seconds, []).append(user_id.encode())
        selects: list[tuple[str, list[object]]] = [
            (
                (
                    "SELECT user_id, NULL AS kind, window_seconds, window_start, used, refused"
                    f" FROM {window_counters.name} WHERE generation = {mark} AND user_id IN"
                    f" ({', '.join([mark] * len(named))}) AND window_seconds = {mark}"
                ),
                [generation, *named, seconds],
            )
            for seconds, named in windows.items()
        ]
        of_limits = (
            "SELECT user_id, kind, NULL, NULL, submissions, running"
            f" FROM {limits.name} WHERE generation = {mark}"
        )
        if subjects:
            named = [subject.encode() for subject in subjects]
            in_users = f" AND user_id IN ({', '.join([mark] * len(named))}) AND kind = {mark}"
            selects.append((of_limits + in_users, [generation, *named, _NO_KIND.encode()]))
        if required.limited_kinds:
            named = [kind.encode() for kind in required.limited_kinds]
            in_kinds = f" AND user_id = {mark} AND kind IN ({', '.join([mark] * len(named))})"
            selects.append((of_limits + in_kinds, [generation, GLOBAL.encode(), *named]))
        _put(union(connection, selects), model)

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        windows = model.windows
        counters = [(key, windows.counters[key]) for key in windows.changed_counters]
        changed = [(subject, windows.limits[subject]) for subject in windows.changed_limits]
        windows.changed_counters.clear()
        windows.changed_limits.clear()
        return [
            *upserting(window_counters, counters, partial(_counter_row, generation)),
            *upserting(limits, changed, partial(_limits_row, generation)),
        ]


def _counter_row(generation: int, counted: tuple[WindowKey, Counter]) -> Row:
    (user_id, seconds), counter = counted
    return (generation, user_id.encode(), seconds, counter.start, counter.used, counter.refused)


def _limits_row(generation: int, changed: tuple[Subject, Limits]) -> Row:
    (user_id, kind), setting = changed
    return (generation, user_id.encode(), kind.encode(), setting.submissions, setting.running)


def _put(found: Iterable[Any], model: WriteModel) -> None:
    for user, kind, seconds, start, first, second in found:
        user_id = UserId(user.decode())
        if seconds is None:
            # What is in memory is newer.
            model.windows.limits.setdefault((user_id, Kind(kind.decode())), Limits(first, second))
        else:
            model.windows.counters.setdefault((user_id, seconds), Counter(start, first, second))


class WindowQueries:
    """Queries windows and limits of one generation: the current one, or an expression for it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def load(
        self, connection: Connection, user_ids: list[UserId], policy: Policy, now: datetime
    ) -> Windows:
        """Return the windows of `now` and the limits, of these users and of all users together.

        Limits of kinds are left out.
        """
        start = to_micros(window_start(now, policy.window_seconds))
        subjects = [GLOBAL.encode(), *(user_id.encode() for user_id in user_ids)]
        windows = Windows()
        counted = connection.execute(
            sa.select(
                window_counters.c.user_id, window_counters.c.used, window_counters.c.refused
            ).where(
                window_counters.c.generation == self._generation,
                window_counters.c.user_id.in_(subjects),
                window_counters.c.window_seconds == policy.window_seconds,
                window_counters.c.window_start == start,
            )
        )
        for user, used, refused in counted:
            key = (UserId(bytes(user).decode()), policy.window_seconds)
            windows.counters[key] = Counter(start, used, refused)
        changed = connection.execute(
            sa.select(limits.c.user_id, limits.c.submissions, limits.c.running).where(
                limits.c.generation == self._generation,
                limits.c.user_id.in_(subjects),
                limits.c.kind == _NO_KIND.encode(),
            )
        )
        for user, submissions, running in changed:
            subject = (UserId(bytes(user).decode()), _NO_KIND)
            windows.limits[subject] = Limits(submissions, running)
        return windows

    def set_limits(
        self, connection: Connection, after: Subject | None, limit: int
    ) -> list[tuple[Subject, Limits]]:
        """Return the next `limit` subjects whose limits were ever changed, with their limits.

        All users together come first, then kinds, then users, by their bytes. None: from the start.
        """
        query = sa.select(limits.c.user_id, limits.c.kind, limits.c.submissions, limits.c.running)
        query = query.where(limits.c.generation == self._generation)
        if after is not None:
            user, kind = (name.encode() for name in after)
            query = query.where(
                limits.c.user_id >= user,
                sa.or_(limits.c.user_id > user, limits.c.kind > kind),
            )
        rows = connection.execute(query.order_by(limits.c.user_id, limits.c.kind).limit(limit))
        return [
            (
                (UserId(bytes(user).decode()), Kind(bytes(kind).decode())),
                Limits(submissions, running),
            )
            for user, kind, submissions, running in rows
        ]
