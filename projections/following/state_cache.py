"""The state that an asynchronous projection keeps in memory between batches."""

import threading
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

S = TypeVar("S")


class StateCache(Generic[S]):
    """One state for each database and generation. It is thread-safe.

    A state is valid for the batch that begins at its position, whichever process applied the
    batches before, since a fold gives the same everywhere. After a failed transaction, or when
    another process was faster, the positions differ and the state has to be read again.
    """

    def __init__(self) -> None:
        self._states: dict[tuple[str, int], tuple[int, S]] = {}
        self._guard = threading.Lock()

    def take(self, connection: Connection, generation: int, position: int) -> S | None:
        """Remove and return the state at a position, or None; the caller may change it."""
        with self._guard:
            found = self._states.pop((str(connection.engine.url), generation), None)
        return None if found is None or found[0] != position else found[1]

    def put(self, connection: Connection, generation: int, position: int, state: S) -> None:
        """Store the state after the event at a position."""
        with self._guard:
            self._states[str(connection.engine.url), generation] = (position, state)
