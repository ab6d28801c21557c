"""State that is folded from the log, with a method for each event type that changes it.

Methods are found by type, since this runs for every event: a `match` would test class after class.
"""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, ClassVar

from domain.language.events import Recorded

Fold = Callable[[Recorded, Any], None]  # the second is the event of the first
FoldMethods = Mapping[type, Callable[[Any, Recorded, Any], None]]  # by type of event


class Folded:
    """Base of such states."""

    FOLDS: ClassVar[FoldMethods]  # events of other types do not change the state

    def folds(self) -> dict[type, Fold]:
        """Return the bound methods by event type, for a caller with several states."""
        return {event_type: MethodType(fold, self) for event_type, fold in self.FOLDS.items()}

    def evolve(self, recorded: Recorded) -> None:
        """Fold one event in. Never raises: history is never refused."""
        event = recorded.event
        fold = self.FOLDS.get(type(event))
        if fold is not None:
            fold(self, recorded, event)
