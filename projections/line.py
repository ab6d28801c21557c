"""The waiting line: a row for each user, lane (user and kind) and kind.

A worker for some kinds reads their lanes in the order of the turn, one index range a kind. The jobs
at the front of each lane that is served are read by the projection that has the jobs; never the
whole queue.
"""

from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.fairness import rounds
from domain.identifiers import Kind, UserId
from domain.line import KindInLine, Lane, UserInLine
from domain.ports import Write
from domain.world import Needs, World
from projections.rows import (
    KEYS_A_STATEMENT_MAX,
    Identifier,
    Query,
    Row,
    deleting,
    fetch,
    generation,
    limited,
    placeholder,
    union,
    upserting,
)  # fmt: skip

VERSION: Final = 1
KINDS_A_CLAIM_MAX: Final = 250  # that a claim of any kind looks at; SQLite joins up to 500 selects
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
)

_NOTHING: sa.ColumnClause[Any] = sa.literal_column("NULL")
# One shape for three tables, so that they are read in one statement.
_users_by_id = Query(
    users,
    [users.c.user_id, _NOTHING, users.c.waiting, users.c.running, users.c.running_limit,
     users.c.last_served, users.c.joined],
    by=users.c.user_id,
)  # fmt: skip
_lanes_by_user = Query(
    lanes,
    [lanes.c.user_id, lanes.c.kind, lanes.c.waiting, _NOTHING, _NOTHING, _NOTHING, _NOTHING],
    by=lanes.c.user_id,
)  # fmt: skip
_kinds_by_name = Query(
    kinds,
    [_NOTHING, kinds.c.kind, kinds.c.waiting, kinds.c.running, kinds.c.running_limit,
     _NOTHING, _NOTHING],
    by=kinds.c.kind,
)  # fmt: skip


class LineProjection:
    name = "line"
    version = VERSION
    is_lasting = True
    tables = (users, lanes, kinds)

    def look_ahead(
        self, connection: Connection, generation: int, needs: Needs, world: World
    ) -> None:
        """For claims: read the front of the line, which says which lanes' jobs are needed."""
        if not needs.serving:
            return
        ahead = world.line.ahead
        if None in needs.serving:
            ahead.kinds = _kinds_waiting(connection, generation)
        wanted = {
            kind for served in needs.serving for kind in (ahead.kinds if served is None else served)
        }
        jobs_max = sum(needs.serving.values())
        # As many users as jobs are claimed, and some for those whose jobs this batch takes away.
        lanes_max = jobs_max + len(needs.jobs)
        front, held_back = _front(connection, generation, sorted(wanted), lanes_max, needs.users)
        for kind, found in front.items():
            if len(found) == lanes_max:
                ahead.horizon[kind] = found[-1][0]
        shares = needs.lanes
        for served, jobs_claimed in needs.serving.items():
            served_kinds = ahead.kinds if served is None else served
            for lane, share in _shares(front, served_kinds, jobs_max).items():
                shares[lane] = shares.get(lane, 0) + min(share, jobs_claimed)
        # Who was at their cap may be in line by now: the end of a job in this batch, or its limit.
        for lane, waiting in held_back:
            if lane[1] in wanted:
                shares[lane] = min(waiting, jobs_max)
        ahead.users.update(user_id for user_id, _ in shares)
        needs.users |= ahead.users
        needs.kinds.update(wanted)

    def load(self, connection: Connection, generation: int, needs: Needs, world: World) -> None:
        named_users = [user_id.encode() for user_id in needs.users]
        found = fetch(
            connection, generation,
            (_users_by_id, named_users), (_lanes_by_user, named_users),
            (_kinds_by_name, [kind.encode() for kind in needs.kinds]),
        )  # fmt: skip
        line = world.line
        for user, kind, waiting, running, running_limit, last_served, joined in found:
            if user is None:
                line.kinds[Kind(kind.decode())] = KindInLine(waiting, running, running_limit)
            elif kind is None:
                line.users[UserId(user.decode())] = UserInLine(
                    last_served, joined, waiting, running, running_limit
                )
            else:
                lane = (UserId(user.decode()), Kind(kind.decode()))
                line.lanes.setdefault(lane[0], {})[lane[1]] = waiting
                line.stored_lanes.add(lane)

    def changes(self, generation: int, world: World) -> list[Write[Connection]]:
        line = world.line
        occupied, empty = _lanes(generation, world)
        changed_users = [(user_id, line.users[user_id]) for user_id in line.changed_users]
        changed_kinds = [(kind, line.kinds[kind]) for kind in line.changed_kinds]
        line.forget_queues()
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
        generation, user_id.encode(), user.last_served, user.joined, user.waiting, user.running,
        user.running_limit, user.turn,
    )  # fmt: skip


def _kind_row(generation: int, changed: tuple[Kind, KindInLine]) -> Row:
    kind, load = changed
    return (generation, kind.encode(), load.waiting, load.running, load.running_limit)


def _lanes(generation: int, world: World) -> tuple[list[Row], list[Row]]:
    """Rows of changed lanes, and keys of those whose row has to go."""
    line = world.line
    occupied: list[Row] = []
    empty: list[Row] = []
    for lane in line.lanes_to_write():
        user_id, kind = lane
        waiting = line.lanes[user_id][kind]
        key = (user_id.encode(), kind.encode())
        if waiting:
            occupied.append((generation, *key, waiting, line.users[user_id].turn))
            line.stored_lanes.add(lane)
        elif lane in line.stored_lanes:
            empty.append(key)
            line.stored_lanes.remove(lane)
    return occupied, empty


def _kinds_waiting(connection: Connection, generation: int) -> tuple[Kind, ...]:
    rows = connection.execute(
        sa.select(kinds.c.kind)
        .where(kinds.c.generation == generation, kinds.c.waiting > 0)
        .order_by(kinds.c.kind)
        .limit(KINDS_A_CLAIM_MAX)
    )
    return tuple(Kind(bytes(kind).decode()) for (kind,) in rows)


def _front(
    connection: Connection, generation: int, wanted: list[Kind], lanes_max: int, named: set[UserId]
) -> tuple[dict[Kind, list[tuple[int, UserId, int]]], list[tuple[Lane, int]]]:
    """For each kind its first lanes by turn: (turn, user, jobs waiting). And the lanes of the named
    users whose turn does not come, with the jobs that wait in them.
    """
    mark = placeholder(connection)
    columns = f"SELECT kind, turn, user_id, waiting FROM {lanes.name} WHERE generation = {mark}"
    first = limited(
        connection,
        f"{columns} AND kind = {mark} AND turn IS NOT NULL ORDER BY turn LIMIT {lanes_max}",
    )
    parts: list[tuple[str, list[object]]] = [
        (first, [generation, kind.encode()]) for kind in wanted
    ]
    users_named = [user_id.encode() for user_id in named]
    for start in range(0, len(users_named), KEYS_A_STATEMENT_MAX):
        chunk = users_named[start : start + KEYS_A_STATEMENT_MAX]
        held = f"{columns} AND user_id IN ({', '.join([mark] * len(chunk))}) AND turn IS NULL"
        parts.append((held, [generation, *chunk]))
    front: dict[Kind, list[tuple[int, UserId, int]]] = {kind: [] for kind in wanted}
    held_back: list[tuple[Lane, int]] = []
    for kind, turn, user, waiting in union(connection, parts):
        lane = (UserId(user.decode()), Kind(kind.decode()))
        if turn is None:
            held_back.append((lane, waiting))
        else:
            front[lane[1]].append((turn, lane[0], waiting))
    for found in front.values():
        found.sort()
    return front, held_back


def _shares(
    front: dict[Kind, list[tuple[int, UserId, int]]], served: tuple[Kind, ...], jobs_max: int
) -> dict[Lane, int]:
    """How many jobs of each lane a claim of these kinds can come to need, at most."""
    by_user: dict[tuple[int, UserId], dict[Kind, int]] = {}
    for kind in served:
        for turn, user_id, waiting in front[kind]:
            by_user.setdefault((turn, user_id), {})[kind] = waiting
    in_turn = sorted(by_user)
    given = rounds([sum(by_user[user].values()) for user in in_turn], jobs_max)
    return {
        (user[1], kind): min(waiting, max(1, share))
        for user, share in zip(in_turn, given, strict=True)
        for kind, waiting in by_user[user].items()
    }  # fmt: skip


class LineQueries:
    """Questions about the line. `generation` is an expression that gives the current one."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def next_users(self, connection: Connection, limit: int) -> list[tuple[UserId, UserInLine]]:
        """The users whose turn is oldest, the next to be served first."""
        rows = connection.execute(
            sa.select(users)
            .where(users.c.generation == self._generation, users.c.turn.is_not(None))
            .order_by(users.c.turn)
            .limit(limit)
        )
        return [(UserId(bytes(row.user_id).decode()), _user(row)) for row in rows]

    def user(self, connection: Connection, user_id: UserId) -> UserInLine:
        row = connection.execute(
            sa.select(users).where(
                users.c.generation == self._generation, users.c.user_id == user_id.encode()
            )
        ).one_or_none()
        return UserInLine() if row is None else _user(row)

    def kind(self, connection: Connection, kind: Kind) -> KindInLine:
        row = connection.execute(
            sa.select(kinds).where(
                kinds.c.generation == self._generation, kinds.c.kind == kind.encode()
            )
        ).one_or_none()
        return KindInLine() if row is None else _kind(row)

    def kinds(self, connection: Connection, limit: int) -> list[tuple[Kind, KindInLine]]:
        """The kinds that were ever submitted, with what waits and runs of each."""
        rows = connection.execute(
            sa.select(kinds)
            .where(kinds.c.generation == self._generation)
            .order_by(kinds.c.kind)
            .limit(limit)
        )
        return [(Kind(bytes(row.kind).decode()), _kind(row)) for row in rows]


def _user(row: sa.Row[tuple[object, ...]]) -> UserInLine:
    return UserInLine(row.last_served, row.joined, row.waiting, row.running, row.running_limit)


def _kind(row: sa.Row[tuple[object, ...]]) -> KindInLine:
    return KindInLine(row.waiting, row.running, row.running_limit)
