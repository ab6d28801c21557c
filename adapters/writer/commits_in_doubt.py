"""Commits without an answer: the transaction may be on disk, and its callers still wait.

No batch is written twice, so each further try of it begins with a look into the log. What follows
depends on the COMMIT of the try before:

- It was not sent, or it was refused: the batch is decided again.
- It has no answer, so the try is in doubt: under the head lock, the next one looks for it.
  - The log has it: its outcomes are those of the batch.
  - The log does not have it: the batch is decided again. Each further try looks for this one, too,
    since a node of a cluster that lags may have it later.

The log has a try if the hash of the chain at its end is the same: a hash covers the whole log up to
it.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from domain.decisions.batch import Outcome
from domain.decisions.ports import Head
from domain.decisions.write_model import WriteModel
from domain.language.commands import Command
from domain.language.events import Recorded
from domain.log.stored_log import Leaf


class WrittenBatch(Struct, frozen=True):
    """A batch that was decided. One with events is in doubt until its COMMIT is answered; one
    without is decided again after an error.
    """

    head: Head  # after the batch
    recorded: Sequence[Recorded]
    leaves: Sequence[Leaf]
    outcomes: list[Outcome]
    model: WriteModel
    has_changed_rows: bool  # so there is something to commit, even without events


class CommitsInDoubt:
    """The tries of the current batch that may be on disk."""

    def __init__(self) -> None:
        # The latest try, from before its COMMIT until its callers have the answer.
        self.latest: WrittenBatch | None = None
        self._not_found: list[tuple[Sequence[Command], WrittenBatch]] = []

    @property
    def has_any(self) -> bool:
        """True if a try may be on disk, here or on another node."""
        return self.latest is not None or bool(self._not_found)

    def forget(self) -> None:
        """Forget all tries: the callers of the batch have their answers."""
        self.latest = None
        self._not_found.clear()

    def find(
        self, commands: Sequence[Command], hash_at: Callable[[int], bytes | None]
    ) -> WrittenBatch | None:
        """Return the earlier try of these commands that the log has; None if it has none.

        `hash_at` returns the hash of the chain at a position, and needs the head lock.
        """
        if self.latest is not None:
            if _is_written(self.latest, hash_at):
                return self.latest
            self._not_found.append((commands, self.latest))
            self.latest = None
        for tried, batch in self._not_found:
            if tried == commands and _is_written(batch, hash_at):
                return batch
        return None


def _is_written(batch: WrittenBatch, hash_at: Callable[[int], bytes | None]) -> bool:
    return hash_at(batch.head.position) == batch.head.hash
