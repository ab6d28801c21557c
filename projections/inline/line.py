"""The line projection: a row for each user, lane (user and kind) and kind.

A claim reads the lanes of its kinds in the order of the turn, one index range per kind, and then
the first jobs of each lane that is served, never the whole queue: see `projections.inline.front`.
"""

from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.line import KindInLine, UserInLine
from domain.language.identifiers import Kind, UserId
from projections.storage.rows import (
    Identifier,
    Query,
    Row,
    deleting,
    fetch,
    generation,
    upserting,
)

VERSION: Final = 2
metadata = sa.MetaData()

users = sa.Table(
    f"line_users_v{VERSION}",
    metadata,
    generation(),
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("last_served", sa.BigInteger, comment="position of the latest JobStarted"),
    sa.Column("joined", sa.BigInteger, comment="position, of a waiting user never served"),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),
    sa.Column("running_limit", sa.BigInteger),
    sa.Column("turn", sa.BigInteger, comment="NULL: not in line"),
    sa.Index(f"line_users_v{VERSION}_by_turn", "generation", "turn"),
)

lanes = sa.Table(
    f"line_lanes_v{VERSION}",
    metadata,
    generation(),
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("kind", Identifier, primary_key=True),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("turn", sa.BigInteger, comment="the user's"),
    sa.Index(f"line_lanes_v{VERSION}_by_turn", "generation", "kind", "turn"),
)

kinds = sa.Table(
    f"line_kinds_v{VERSION}",
    metadata,
    generation(),
    sa.Column("kind", Identifier, primary_key=True),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),
    sa.Column("running_limit", sa.BigInteger),
    # Users name kinds, so there may be very many: a claim must not read those without jobs.
    sa.Column("waits_as", Identifier, comment="the kind while jobs of it wait, else NULL"),
    sa.Index(f"line_kinds_v{VERSION}_waiting", "generation", "waits_as"),
)

_NOTHING: sa.ColumnClause[Any] = sa.literal_column("NULL")
# All have the same columns, so that one statement reads them.
_users_by_id = Query(
    users,
    [
        users.c.user_id,
        _NOTHING,
        users.c.waiting,
        users.c.running,
        users.c.running_limit,
        users.c.last_served,
        users.c.joined,
    ],
    by=users.c.user_id,
)
_lanes_by_user = Query(
    lanes,
    [lanes.c.user_id, lanes.c.kind, lanes.c.waiting, _NOTHING, _NOTHING, _NOTHING, _NOTHING],
    by=lanes.c.user_id,
)
_kinds_by_name = Query(
    kinds,
    [
        _NOTHING,
        kinds.c.kind,
        kinds.c.waiting,
        kinds.c.running,
        kinds.c.running_limit,
        _NOTHING,
        _NOTHING,
    ],
    by=kinds.c.kind,
)


class LineProjection:
    """Loads and writes users, lanes and kinds, and the front of the line for claims."""

    name = "line"
    version = VERSION
    is_lasting = True
    tables = (users, lanes, kinds)

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        named_users = [user_id.encode() for user_id in required.users]
        found = fetch(
            connection,
            generation,
            (_users_by_id, named_users),
            (_lanes_by_user, named_users),
            (_kinds_by_name, [kind.encode() for kind in required.kinds]),
        )
        line = model.line
        new = {user_id for user_id in required.users if user_id not in line.users}
        for user, kind, waiting, running, running_limit, last_served, joined in found:
            if user is None:
                load = KindInLine(waiting, running, running_limit)
                line.kinds.setdefault(Kind(kind.decode()), load)
                continue
            user_id = UserId(user.decode())
            if user_id not in new:  # what is in memory is newer
                continue
            if kind is None:
                line.users[user_id] = UserInLine(
                    last_served, joined, waiting, running, running_limit
                )
            else:
                lane = (user_id, Kind(kind.decode()))
                line.lanes.setdefault(user_id, {})[lane[1]] = waiting
                line.stored_lanes.add(lane)
        for user_id in new:
            line.has_read(user_id)

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        line = model.line
        occupied, empty = _lanes(generation, model)
        changed_users = [(user_id, line.users[user_id]) for user_id in line.changed_users]
        changed_kinds = [(kind, line.kinds[kind]) for kind in line.changed_kinds]
        line.changed_users.clear()
        line.changed_kinds.clear()
        line.changed_lanes.clear()
        return [
            *upserting(users, changed_users, partial(_user_row, generation)),
            *upserting(kinds, changed_kinds, partial(_kind_row, generation)),
            deleting(lanes, generation, empty),
            *upserting(lanes, occupied, tuple),
        ]


def _user_row(generation: int, changed: tuple[UserId, UserInLine]) -> Row:
    user_id, user = changed
    return (
        generation,
        user_id.encode(),
        user.last_served,
        user.joined,
        user.waiting,
        user.running,
        user.running_limit,
        user.turn,
    )


def _kind_row(generation: int, changed: tuple[Kind, KindInLine]) -> Row:
    kind, load = changed
    name = kind.encode()
    return (
        generation,
        name,
        load.waiting,
        load.running,
        load.running_limit,
        name if load.waiting > 0 else None,
    )


def _lanes(generation: int, model: WriteModel) -> tuple[list[Row], list[Row]]:
    """Return the rows of changed lanes that have jobs, and the keys of those that are empty now."""
    line = model.line
    occupied: list[Row] = []
    empty: list[Row] = []
    for lane in line.lanes_to_write():
        user_id, kind = lane
        waiting = line.lanes[user_id][kind]
        key = (user_id.encode(), kind.encode())
        if waiting:
            occupied.append((generation, *key, waiting, line.users[user_id].turn))
            line.stored_lanes.add(lane)
        else:
            del line.lanes[user_id][kind]  # a user may have had jobs of very many kinds
            if lane in line.stored_lanes:
                empty.append(key)
                line.stored_lanes.remove(lane)
    return occupied, empty
