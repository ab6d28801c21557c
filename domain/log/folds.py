"""State that is folded from the log, with a fold for each type of event that concerns it.

By type, since every event is asked: a `match` would try one class after another.
"""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, ClassVar

from domain.language.events import Recorded

Fold = Callable[[Recorded, Any], None]  # the second is the event of the first
FoldMethods = Mapping[type, Callable[[Any, Recorded, Any], None]]  # by type of event


class Folded:
    FOLDS: ClassVar[FoldMethods]  # what is not in it leaves the state as it is

    def folds(self) -> dict[type, Fold]:
        """For who asks for the type once, and not each part of a state again."""
        return {event_type: MethodType(fold, self) for event_type, fold in self.FOLDS.items()}

    def evolve(self, recorded: Recorded) -> None:
        """Fold one fact in. Total: history is never refused."""
        event = recorded.event
        fold = self.FOLDS.get(type(event))
        if fold is not None:
            fold(self, recorded, event)
