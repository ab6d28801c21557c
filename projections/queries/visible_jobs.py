"""The jobs that an API key may see, of its users and kinds alone."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.access.keys import ApiKey, byte_range
from domain.jobs.job import Job, State
from domain.language.identifiers import UserId
from projections.inline.jobs import STATE_NUMBERS, STATES, decode_job, jobs


class VisibleJobs:
    """Searches one generation of the jobs: the current one, or an expression for it.

    Without an index for several users, a search may read all jobs of a key: run it as a long read.
    """

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def newest(
        self,
        connection: Connection,
        key: ApiKey,
        user_id: UserId | None,
        state: State | None,
        below: int | None,
        limit: int,
    ) -> list[Job]:
        """Return up to `limit` jobs, newest first; `below` is the last id of the page before."""
        query = sa.select(jobs.c.job).where(
            jobs.c.generation == self._generation, *conditions_of(key)
        )
        if user_id is not None:
            query = query.where(jobs.c.user_id == user_id.encode())
        if state is not None:
            query = query.where(jobs.c.state == STATE_NUMBERS[state])
        if below is not None:
            query = query.where(jobs.c.id < below)
        rows = connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))
        return [decode_job(document) for (document,) in rows]

    def counts(self, connection: Connection, key: ApiKey) -> dict[State, int]:
        """Return the number of the key's jobs by state."""
        rows = connection.execute(
            sa.select(jobs.c.state, sa.func.count())
            .where(jobs.c.generation == self._generation, *conditions_of(key))
            .group_by(jobs.c.state)
        )
        return dict.fromkeys(State, 0) | {STATES[state]: count for state, count in rows}


def conditions_of(key: ApiKey) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions that a row's job is one of the key's."""
    created = key.created
    if not created.any_user:
        users: list[sa.ColumnElement[bool]] = [
            jobs.c.user_id.in_([user_id.encode() for user_id in created.users])
        ]
        if created.user_prefix is not None:
            first, end = byte_range(created.user_prefix)
            users.append(sa.and_(jobs.c.user_id >= first, jobs.c.user_id < end))
        yield sa.or_(*users)
    if created.kinds:
        yield jobs.c.kind.in_([kind.encode() for kind in created.kinds])
