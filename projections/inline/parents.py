"""The parents projection: a row for each job that waits to be told the end of another.

The job of the child has its parents, and that of the parent the number of its children. The rows
give the children of a parent in their order, when it ends and they are not in memory.
"""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.jobs.children import Edge, UnreadChildren
from domain.language.identifiers import JobId
from projections.inline.jobs import jobs, take_job
from projections.storage.rows import (
    KEYS_PER_STATEMENT_MAX,
    delete,
    generation,
    limited,
    placeholder,
    union,
    upserting,
)

VERSION: Final = 1
CHILDREN_TOGETHER_MIN: Final = 20  # of one parent; fewer are deleted with those of others
metadata = sa.MetaData()

parents = sa.Table(
    f"parents_v{VERSION}",
    metadata,
    generation(),
    sa.Column("parent", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("child", sa.BigInteger, primary_key=True, autoincrement=False),
)


class ParentsProjection:
    """Writes which jobs wait for which; `read_children` reads it."""

    name = "parents"
    version = VERSION
    is_lasting = False
    tables = (parents,)

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Load nothing: children are read when a job has ended that has some."""

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        added, removed = model.jobs.children.take_changes()
        writes = upserting(parents, added, lambda edge: (generation, *edge))
        return (
            [*writes, partial(_remove, generation=generation, removed=removed)]
            if removed
            else writes
        )


def _remove(connection: Connection, generation: int, removed: Sequence[Edge]) -> None:
    """Delete edges, which are in order: those of a parent with many by one index range."""
    few: list[Edge] = []
    for parent, edges in groupby(removed, key=itemgetter(0)):
        children = list(edges)
        if len(children) < CHILDREN_TOGETHER_MIN:
            few += children
            continue
        for start in range(0, len(children), KEYS_PER_STATEMENT_MAX):
            some = [edge.child for edge in children[start : start + KEYS_PER_STATEMENT_MAX]]
            connection.execute(
                parents.delete().where(
                    parents.c.generation == generation,
                    parents.c.parent == parent,
                    parents.c.child.in_(some),
                )
            )
    if few:
        delete(connection, parents, generation, few)


def read_children(
    connection: Connection,
    generation: int,
    of_jobs: int,
    unread: UnreadChildren,
    model: WriteModel,
    required: RequiredRows,
) -> None:
    """Read the next children of some jobs by one statement; their rows have to be current.

    `generation` and `of_jobs` are the generations of this projection and of the jobs.
    """
    mark = placeholder(connection)
    following = limited(
        connection,
        f"SELECT {parents.name}.parent, {jobs.name}.job FROM {parents.name} JOIN {jobs.name}"
        f" ON {jobs.name}.generation = {mark} AND {jobs.name}.id = {parents.name}.child"
        f" WHERE {parents.name}.generation = {mark} AND {parents.name}.parent = {mark}"
        f" ORDER BY {parents.name}.child LIMIT {unread.children_max}",
    )
    selects: list[tuple[str, Sequence[Any]]] = [
        (following, (of_jobs, generation, parent)) for parent in unread.parents
    ]
    for parent, document in union(connection, selects):
        child = take_job(document, required, model)
        model.jobs.children.know(Edge(JobId(parent), child.id))
