"""What a projection that follows the log remembers from one batch to the next."""

import threading
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

S = TypeVar("S")


class StateCache(Generic[S]):
    """A state for each database and generation; any thread may ask.

    It is good for the batch that begins where it ends, whoever applied those before: what events
    give is the same everywhere. Where a transaction failed, or another process was quicker, the
    positions do not meet, and it is read anew.
    """

    def __init__(self) -> None:
        self._states: dict[tuple[str, int], tuple[int, S]] = {}
        self._guard = threading.Lock()

    def take(self, connection: Connection, generation: int, position: int) -> S | None:
        """The state behind the event at a position, to be changed; None where it is not known."""
        with self._guard:
            found = self._states.pop((str(connection.engine.url), generation), None)
        return None if found is None or found[0] != position else found[1]

    def put(self, connection: Connection, generation: int, position: int, state: S) -> None:
        with self._guard:
            self._states[str(connection.engine.url), generation] = (position, state)
