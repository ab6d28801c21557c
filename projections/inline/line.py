"""The line projection: a row for each user, lane (user and kind) and kind.

A claim reads the lanes of its kinds in the order of the turn, one index range per kind. The jobs
projection reads the first jobs of each lane that is served, never the whole queue.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.line import KindInLine, Lane, Lookahead, Unread, UserInLine
from domain.fairness.serve import rounds
from domain.language.identifiers import Kind, UserId
from projections.storage.rows import (
    KEYS_PER_STATEMENT_MAX,
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
)

VERSION: Final = 2
# Read at first by a claim of any kind; SQLite allows 500 selects in a UNION.
KINDS_PER_CLAIM_MAX: Final = 250
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


_Front = dict[Kind, list[tuple[int, UserId, int]]]  # (turn, user, jobs waiting) of a kind's lanes


class LineProjection:
    """Loads and writes users, lanes and kinds, and the front of the line for claims."""

    name = "line"
    version = VERSION
    is_lasting = True
    tables = (users, lanes, kinds)

    def look_ahead(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Read the front of the line for a batch with claims, and require its lanes' jobs."""
        if required.unread is not None:
            self._look_further(connection, generation, required, model, required.unread)
        if not required.serving:
            return
        ahead = model.line.ahead
        if None in required.serving:
            _add_kinds(connection, generation, required.kinds, ahead)
        wanted = {
            kind
            for served in required.serving
            for kind in (ahead.kinds if served is None else served)
        }
        jobs_max = sum(required.serving.values())
        # One user per claimed job, and one more per job of the batch, which may end a user's jobs.
        lanes_max = jobs_max + len(required.jobs)
        from_start = dict.fromkeys(sorted(wanted), 0)
        front, capped = _front(connection, generation, from_start, lanes_max, required.users)
        _note_horizon(front, lanes_max, ahead)
        shares = required.lanes
        for served, jobs_claimed in required.serving.items():
            served_kinds = ahead.kinds if served is None else served
            for lane, share in _shares(front, served_kinds, jobs_max).items():
                shares[lane] = shares.get(lane, 0) + min(share, jobs_claimed)
        # A job that ends in this batch, or a new limit, may bring a capped user back into the line.
        for lane, waiting in capped:
            if lane[1] in wanted:
                shares[lane] = min(waiting, jobs_max)
        ahead.users.update(user_id for user_id, _ in shares)
        required.users.update(ahead.users)
        required.kinds.update(wanted)

    def _look_further(
        self,
        connection: Connection,
        generation: int,
        required: RequiredRows,
        model: WriteModel,
        unread: Unread,
    ) -> None:
        """Read as many rows again as were read before: the total stays proportional to the need."""
        ahead = model.line.ahead
        after = {kind: ahead.horizon.pop(kind) for kind in sorted(unread.kinds)}
        if unread.more_kinds:
            named = model.line.changed_kinds
            after |= dict.fromkeys(_add_kinds(connection, generation, named, ahead), 0)
        lanes_max = unread.jobs + len(ahead.users)
        front, _ = _front(connection, generation, after, lanes_max, set())
        _note_horizon(front, lanes_max, ahead)
        required.lanes.update(_shares(front, tuple(after), unread.jobs))
        for lane in unread.lanes:
            required.lanes[lane] = unread.jobs + 2 * len(ahead.queues.get(lane, ()))
        ahead.users.update(user_id for user_id, _ in required.lanes)
        required.users.update(ahead.users)
        required.kinds.update(after)

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

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        line = model.line
        occupied, empty = _lanes(generation, model)
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
        elif lane in line.stored_lanes:
            empty.append(key)
            line.stored_lanes.remove(lane)
    return occupied, empty


def _add_kinds(
    connection: Connection, generation: int, named: set[Kind], ahead: Lookahead
) -> list[Kind]:
    """Read the next kinds by name that have waiting jobs, and that are below their cap or are
    `named` by this batch, which may bring them below it.
    """
    is_below_cap = sa.or_(kinds.c.running_limit.is_(None), kinds.c.running < kinds.c.running_limit)
    rows = connection.execute(
        sa.select(kinds.c.kind)
        .where(
            kinds.c.generation == generation,
            kinds.c.waits_as > (ahead.kinds[-1].encode() if ahead.kinds else b""),
            sa.or_(is_below_cap, kinds.c.kind.in_([kind.encode() for kind in named])),
        )
        .order_by(kinds.c.waits_as)
        .limit(KINDS_PER_CLAIM_MAX)
    )
    found = [Kind(bytes(kind).decode()) for (kind,) in rows]
    ahead.kinds = (*ahead.kinds, *found)
    ahead.has_more_kinds = len(found) == KINDS_PER_CLAIM_MAX
    return found


def _note_horizon(front: _Front, lanes_max: int, ahead: Lookahead) -> None:
    """Note the turn up to which each kind was read, where there may be more lanes."""
    for kind, found in front.items():
        if len(found) == lanes_max:
            ahead.horizon[kind] = found[-1][0]


def _front(
    connection: Connection,
    generation: int,
    after: Mapping[Kind, int],
    lanes_max: int,
    named: set[UserId],
) -> tuple[_Front, list[tuple[Lane, int]]]:
    """Return for each kind its first lanes after a turn.

    The second list has the lanes of the named users without a turn, since they are at their cap,
    and the number of jobs that wait in them.
    """
    mark = placeholder(connection)
    columns = f"SELECT kind, turn, user_id, waiting FROM {lanes.name} WHERE generation = {mark}"
    first = limited(
        connection,
        f"{columns} AND kind = {mark} AND turn > {mark} ORDER BY turn LIMIT {lanes_max}",
    )
    selects: list[tuple[str, list[object]]] = [
        (first, [generation, kind.encode(), turn]) for kind, turn in after.items()
    ]
    users_named = [user_id.encode() for user_id in named]
    for start in range(0, len(users_named), KEYS_PER_STATEMENT_MAX):
        chunk = users_named[start : start + KEYS_PER_STATEMENT_MAX]
        without = f"{columns} AND user_id IN ({', '.join([mark] * len(chunk))}) AND turn IS NULL"
        selects.append((without, [generation, *chunk]))
    front: _Front = {kind: [] for kind in after}
    capped: list[tuple[Lane, int]] = []
    for kind, turn, user, waiting in union(connection, selects):
        lane = (UserId(user.decode()), Kind(kind.decode()))
        if turn is None:
            capped.append((lane, waiting))
        else:
            front[lane[1]].append((turn, lane[0], waiting))
    for found in front.values():
        found.sort()
    return front, capped


def _shares(front: _Front, served: tuple[Kind, ...], jobs_max: int) -> dict[Lane, int]:
    """Return the most jobs of each lane that a claim of these kinds can need."""
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
    }
