"""The line projection: a row for each user, lane, kind, queue and resource, and for each throttle.

A claim reads the lanes of its queues in the order of the line, one index range per queue, and then
the first jobs of each lane that is served, never the whole queue: see `projections.inline.front`.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.line import Line, Load, UserInLine
from domain.fairness.queues import SEPARATOR, QueueName, kind_of, resources_of
from domain.fairness.start_limits import Starts
from domain.fairness.strides import ORDER_BYTES, PASS_BYTES
from domain.language.identifiers import GLOBAL, Kind, ResourceName, UserId
from domain.limits.limits import LimitSettings, Subject
from projections.storage.rows import (
    Identifier,
    Query,
    Queue,
    Row,
    deleting,
    digest,
    fetch,
    generation,
    upserting,
)

VERSION: Final = 3
metadata = sa.MetaData()

_Names = sa.LargeBinary().with_variant(mysql.VARBINARY(3 * 255 + 2), "mysql", "mariadb")

users = sa.Table(
    f"line_users_v{VERSION}",
    metadata,
    generation(),
    # The empty name, which no user has, has the virtual time as its pass.
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("last_served", sa.BigInteger, comment="position of the latest JobStarted"),
    sa.Column("joined", sa.BigInteger, comment="position, of a waiting user never served"),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),
    sa.Column("pass_value", digest(PASS_BYTES), nullable=False, comment="of stride scheduling"),
    sa.Column("turn", digest(ORDER_BYTES), comment="pass and position; NULL: not in line"),
    sa.Column("resumes_at", sa.BigInteger, comment="UTC, microseconds: when a throttle ends"),
    sa.Index(f"line_users_v{VERSION}_by_turn", "generation", "turn"),
    sa.Index(f"line_users_v{VERSION}_by_time", "generation", "resumes_at"),
)

lanes = sa.Table(
    f"line_lanes_v{VERSION}",
    metadata,
    generation(),
    sa.Column("user_id", Identifier, primary_key=True),
    sa.Column("queue", Queue, primary_key=True),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),
    sa.Column("turn", digest(ORDER_BYTES), comment="the user's; NULL: nothing may start"),
    sa.Index(f"line_lanes_v{VERSION}_by_turn", "generation", "queue", "turn"),
)

kinds = sa.Table(
    f"line_kinds_v{VERSION}",
    metadata,
    generation(),
    sa.Column("kind", Identifier, primary_key=True),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),
    # Users name kinds, so there may be very many: a claim must not read those without jobs.
    sa.Column("waits_as", Identifier, comment="the kind while jobs of it wait, else NULL"),
    sa.Index(f"line_kinds_v{VERSION}_waiting", "generation", "waits_as"),
)

queues = sa.Table(
    f"line_queues_v{VERSION}",
    metadata,
    generation(),
    sa.Column("kind", Identifier, primary_key=True),
    sa.Column("resources", _Names, primary_key=True, comment="names, with NUL between them"),
    sa.Column("waiting", sa.BigInteger, nullable=False),
)

resources = sa.Table(
    f"line_resources_v{VERSION}",
    metadata,
    generation(),
    sa.Column("resource", Identifier, primary_key=True),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),
)

starts = sa.Table(
    f"line_starts_v{VERSION}",
    metadata,
    generation(),
    sa.Column("subject", _Names, primary_key=True, comment="user, kind, resource; NUL between"),
    sa.Column("since", sa.BigInteger, nullable=False, comment="position that set the throttle"),
    sa.Column("window_start", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Column("used", sa.BigInteger, nullable=False),
)

_TABLES: Final = (users, lanes, kinds, queues, resources, starts)
_NOTHING: sa.ColumnClause[Any] = sa.literal_column("NULL")
_NUMBERS_MAX: Final = 5


def _query(
    name: sa.Column[Any],
    second: sa.ColumnElement[Any],
    turn: sa.ColumnElement[Any],
    *numbers: sa.Column[Any],
) -> Query:
    """Return a query by name. All have the same columns, so that one statement reads all tables."""
    table = name.table
    assert isinstance(table, sa.Table)
    which: sa.ColumnClause[Any] = sa.literal_column(str(_TABLES.index(table)))
    padding = [_NOTHING] * (_NUMBERS_MAX - len(numbers))
    return Query(table, [which, name, second, turn, *numbers, *padding], by=name)


_users_by_id = _query(
    users.c.user_id,
    users.c.pass_value,
    users.c.turn,
    users.c.waiting,
    users.c.running,
    users.c.last_served,
    users.c.joined,
    users.c.resumes_at,
)
_lanes_by_user = _query(
    lanes.c.user_id, lanes.c.queue, lanes.c.turn, lanes.c.waiting, lanes.c.running
)
_kinds_by_name = _query(kinds.c.kind, _NOTHING, _NOTHING, kinds.c.waiting, kinds.c.running)
_queues_by_kind = _query(queues.c.kind, queues.c.resources, _NOTHING, queues.c.waiting)
_resources_by_name = _query(
    resources.c.resource, _NOTHING, _NOTHING, resources.c.waiting, resources.c.running
)
_starts_by_subject = _query(
    starts.c.subject, _NOTHING, _NOTHING, starts.c.since, starts.c.window_start, starts.c.used
)


class LineProjection:
    """Loads and writes all that the line consists of."""

    name = "line"
    version = VERSION
    is_lasting = True
    tables = _TABLES

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        line = model.line
        named_users = [user_id.encode() for user_id in required.users]
        if not line.has_virtual_time:
            named_users.append(GLOBAL.encode())
        named_kinds = [kind.encode() for kind in required.kinds]
        found = fetch(
            connection,
            generation,
            (_users_by_id, named_users),
            (_lanes_by_user, named_users),
            (_kinds_by_name, named_kinds),
            (_queues_by_kind, named_kinds),
            *_of_resources(required.resources, _throttled(required, model.limits)),
        )
        new_users = required.users.difference(line.users)
        new_kinds = required.kinds.difference(line.kinds)
        _put(line, found, new_users, new_kinds)
        line.has_virtual_time = True
        for user_id in new_users:
            line.has_read(user_id)
        used = {name for kind in new_kinds for name in line.resources_used(kind)}
        if further := used.difference(line.resources, required.resources):
            required.resources.update(further)
            throttled = _throttled(RequiredRows(resources=further), model.limits)
            _put(line, fetch(connection, generation, *_of_resources(further, throttled)), (), ())

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        line = model.line
        occupied, empty = _lanes(generation, line)
        changed_users = [(user_id, line.users[user_id]) for user_id in line.changed_users]
        if line.has_new_virtual_time:
            changed_users.append((GLOBAL, UserInLine(pass_=line.virtual_time)))
        changed_kinds = [(kind, line.kinds[kind]) for kind in line.changed_kinds]
        changed_starts = [(subject, line.starts[subject]) for subject in line.changed_starts]
        writes = [
            *upserting(users, changed_users, partial(_user_row, generation)),
            *upserting(kinds, changed_kinds, partial(_kind_row, generation)),
            deleting(lanes, generation, empty),
            *upserting(lanes, occupied, tuple),
            *_queues(generation, line),
            *_resources(generation, line),
            *upserting(starts, changed_starts, partial(_starts_row, generation)),
        ]
        line.forget_changes()
        return writes


def _of_resources(
    names: Collection[ResourceName], throttled: Collection[Subject]
) -> Sequence[tuple[Query, Collection[bytes]]]:
    return (
        (_resources_by_name, [name.encode() for name in names]),
        (_starts_by_subject, [key_of_starts(subject) for subject in throttled]),
    )


def _throttled(required: RequiredRows, limits: LimitSettings) -> set[Subject]:
    """Return the subjects of the required rows whose starts are counted, or may be later without
    an event that names them.
    """
    found = set(required.starts)
    for user_id in required.users:
        if limits.of_user(user_id).throttle is not None:
            found.add(Subject(user_id))
        for kind, own in limits.user_kinds.get(user_id, {}).items():
            if own.throttle is not None:
                found.add(Subject(user_id, kind))
    found.update(
        Subject(kind=kind) for kind in required.kinds if limits.of_kind(kind).throttle is not None
    )
    found.update(Subject(resource=name) for name in required.resources if limits.may_throttle(name))
    return found


def _put(
    line: Line, found: Iterable[Row], new_users: Collection[UserId], new_kinds: Collection[Kind]
) -> None:
    """Take rows into memory, except where what is there is newer."""
    for which, name, second, turn, *numbers in sorted(found, key=itemgetter(0)):
        text = name.decode()
        match which:
            case 0 if not text:
                if not line.has_virtual_time:
                    line.virtual_time = int.from_bytes(second)
            case 0 if text in new_users:
                waiting, running, last_served, joined, resumes_at = numbers
                line.users[UserId(text)] = UserInLine(
                    last_served,
                    joined,
                    waiting,
                    running,
                    int.from_bytes(second),
                    waiting > 0 and turn is None,
                    resumes_at,
                )
            case 1 if text in new_users:
                lane = (UserId(text), QueueName(second.decode()))
                line.read_lane(lane, Load(*numbers[:2]), is_in_line=turn is not None)
            case 2:
                line.kinds.setdefault(Kind(text), Load(*numbers[:2]))
            case 3 if text in new_kinds:
                queue = QueueName(SEPARATOR.join((text, second.decode())))
                line.read_queue(queue, numbers[0])
            case 4:
                line.resources.setdefault(ResourceName(text), Load(*numbers[:2]))
            case 5:
                subject = subject_of_starts(name)
                line.starts.setdefault(subject, Starts(*numbers[:3]))
            case _:
                pass  # what is in memory is newer


def _user_row(generation: int, changed: tuple[UserId, UserInLine]) -> Row:
    user_id, user = changed
    order = user.order
    return (
        generation,
        user_id.encode(),
        user.last_served,
        user.joined,
        user.waiting,
        user.running,
        user.pass_.to_bytes(PASS_BYTES),
        None if order is None else order.to_bytes(ORDER_BYTES),
        user.resumes_at,
    )


def _kind_row(generation: int, changed: tuple[Kind, Load]) -> Row:
    kind, load = changed
    name = kind.encode()
    return (generation, name, load.waiting, load.running, name if load.waiting > 0 else None)


def _starts_row(generation: int, changed: tuple[Subject, Starts]) -> Row:
    subject, counted = changed
    return (generation, key_of_starts(subject), counted.since, counted.window_start, counted.used)


def key_of_starts(subject: Subject) -> bytes:
    """Return the key of a subject in the table of starts."""
    return SEPARATOR.join((subject.user_id, subject.kind, subject.resource)).encode()


def subject_of_starts(key: bytes) -> Subject:
    """Return the subject of a key in the table of starts."""
    user, kind, resource = key.decode().split(SEPARATOR)
    return Subject(UserId(user), Kind(kind), ResourceName(resource))


def _lanes(generation: int, line: Line) -> tuple[list[Row], list[Row]]:
    """Return the rows of changed lanes that have jobs, and the keys of those that have none now."""
    occupied: list[Row] = []
    empty: list[Row] = []
    for lane in line.lanes_to_write():
        user_id, queue = lane
        load = line.lanes[user_id][queue]
        key = (user_id.encode(), queue.encode())
        if load.waiting or load.running:
            order = line.order_of_lane(lane)
            turn = None if order is None else order.to_bytes(ORDER_BYTES)
            occupied.append((generation, *key, load.waiting, load.running, turn))
            line.stored_lanes.add(lane)
        else:
            del line.lanes[user_id][queue]  # a user may have had jobs of very many kinds
            if lane in line.stored_lanes:
                empty.append(key)
                line.stored_lanes.remove(lane)
    return occupied, empty


def _queues(generation: int, line: Line) -> list[Write[Connection]]:
    occupied: list[Row] = []
    empty: list[Row] = []
    for queue in line.changed_queues:
        kind = kind_of(queue)
        key = (kind.encode(), SEPARATOR.join(resources_of(queue)).encode())
        if waiting := line.queues[kind][queue]:
            occupied.append((generation, *key, waiting))
        else:
            del line.queues[kind][queue]
            empty.append(key)
    return [deleting(queues, generation, empty), *upserting(queues, occupied, tuple)]


def _resources(generation: int, line: Line) -> list[Write[Connection]]:
    occupied: list[Row] = []
    empty: list[Row] = []
    for name in line.changed_resources:
        load = line.resources[name]
        if load.waiting or load.running:
            occupied.append((generation, name.encode(), load.waiting, load.running))
        else:
            del line.resources[name]
            empty.append((name.encode(),))
    return [deleting(resources, generation, empty), *upserting(resources, occupied, tuple)]
