"""The protocol of an asynchronous projection, and the reads that feed it."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from projections.storage.generations import Tabled


class Positioned(Protocol):
    """An event, or its hash, at a position of the log."""

    @property
    def position(self) -> int: ...


E = TypeVar("E", bound=Positioned)
# Read events after a position (second argument) in order, up to a number of them (third).
Read = Callable[[Connection, int, int], Sequence[E]]
E_contra = TypeVar("E_contra", bound=Positioned, contravariant=True)


class Changes(Struct, frozen=True):
    """The changes that a batch of events makes to a projection's rows."""

    writes: Sequence[Write[Connection]]
    # Call it once the writes are committed: the state in memory is then that of the rows.
    keep_state: Callable[[], None] = lambda: None


class AsyncProjection(Tabled, Protocol[E_contra]):
    """A read model of `Recorded` events or of `Leaf` hashes.

    Its rows depend on the events alone, never on the size of the batches.
    """

    def fold(self, connection: Connection, generation: int, events: Sequence[E_contra]) -> Changes:
        """Fold the events that follow those of the stored rows. Writes nothing.

        It reads by `connection` what is not in memory.
        """


def apply_events(
    projection: AsyncProjection[E], connection: Connection, generation: int, events: Sequence[E]
) -> None:
    """Fold a batch of events and write its changes in the same transaction."""
    changes = projection.fold(connection, generation, events)
    for write in changes.writes:
        write(connection)
    changes.keep_state()
