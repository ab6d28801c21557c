"""The line as one asks for it: who is next, and how a user or a kind stands."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.fairness.line import KindInLine, UserInLine
from domain.language.identifiers import Kind, UserId
from projections.inline.line import kinds, users


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

    def waiting_of(self, connection: Connection, named: Sequence[Kind]) -> list[tuple[Kind, int]]:
        """How many jobs wait of each of these kinds that may run, where any do."""
        rows = connection.execute(
            sa.select(kinds).where(
                kinds.c.generation == self._generation,
                kinds.c.kind.in_([kind.encode() for kind in named]),
                kinds.c.waiting > 0,
            )
        )
        loads = ((Kind(bytes(row.kind).decode()), _kind(row)) for row in rows)
        return [(kind, load.waiting) for kind, load in loads if not load.is_capped]

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
