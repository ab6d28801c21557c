"""The jobs that wait for the end of others: the children of each parent that are in memory."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from msgspec import Struct

from domain.language.identifiers import JobId


class Edge(NamedTuple):
    """A child, and a parent whose end it has not been told."""

    parent: JobId
    child: JobId


class UnreadChildren(Struct, frozen=True):
    """Children of ended parents that are stored and have to be read."""

    parents: Sequence[JobId]
    children_max: int  # of each parent


class Children:
    """The children in memory. A parent's job says how many there are in all."""

    def __init__(self) -> None:
        self._of: dict[JobId, dict[JobId, None]] = {}  # in the order in which they are told
        # Edges to be stored (True) or deleted (False). One that came and went is in neither.
        self._changed: dict[Edge, bool] = {}

    def add(self, edge: Edge) -> None:
        """Add a new edge."""
        self.know(edge)
        self._changed[edge] = True

    def know(self, edge: Edge) -> None:
        """Add an edge that is stored already."""
        self._of.setdefault(edge.parent, {})[edge.child] = None

    def remove(self, edge: Edge) -> None:
        """Remove an edge, whether it is in memory or not."""
        known = self._of.get(edge.parent)
        if known is not None:
            known.pop(edge.child, None)
            if not known:
                del self._of[edge.parent]
        if self._changed.pop(edge, None) is None:
            self._changed[edge] = False

    def next_of(self, parent: JobId, children_max: int) -> list[JobId]:
        """Return the next children of a parent that are in memory."""
        return list(islice(self._of.get(parent, ()), children_max))

    def take_changes(self) -> tuple[list[Edge], list[Edge]]:
        """Return the edges to be stored and those to be deleted, and mark them as written."""
        changed, self._changed = self._changed, {}
        return (
            sorted(edge for edge, is_new in changed.items() if is_new),
            sorted(edge for edge, is_new in changed.items() if not is_new),
        )

    def forget(self) -> None:
        """Drop what is in memory; the changes stay until they are written."""
        self._of.clear()
