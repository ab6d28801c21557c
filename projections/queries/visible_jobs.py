"""The jobs that an API key may see, of its users and kinds alone."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.access.keys import ApiKey, byte_ranges
from domain.jobs.job import State
from projections.inline.jobs import STATES, jobs


class VisibleJobs:
    """Counts in one generation of the jobs: the current one, or an expression for it.

    It reads all jobs of a key: run it as a long read.
    """

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def counts(self, connection: Connection, key: ApiKey) -> dict[State, int]:
        """Return the number of the key's jobs by state."""
        rows = connection.execute(
            sa.select(jobs.c.state, sa.func.count())
            .where(jobs.c.generation == self._generation, *conditions_of(key))
            .group_by(jobs.c.state)
        )
        return dict.fromkeys(State, 0) | {STATES[state]: count for state, count in rows}


def conditions_of(key: ApiKey, table: sa.Table = jobs) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions that a row, of a user and a kind, is one of the key's.

    Without an index for several users, a search may read all of its jobs: run it as a long read.
    """
    created = key.created
    if not created.any_user:
        users: list[sa.ColumnElement[bool]] = [
            table.c.user_id.in_([user_id.encode() for user_id in created.users])
        ]
        if created.user_prefix is not None:
            ranges, column = byte_ranges(created.user_prefix), table.c.user_id
            users += [sa.and_(column >= first, column < end) for first, end in ranges]
        yield sa.or_(*users)
    if created.kinds:
        yield table.c.kind.in_([kind.encode() for kind in created.kinds])
