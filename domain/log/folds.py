"""State that is folded from the log, with a method for each event type that changes it.

Methods are found by type, since this runs for every event: a `match` would test class after class.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, ClassVar

from domain.language.events import EVENT_TYPES, Recorded

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


def folds_by_type(states: Iterable[Folded]) -> dict[type, tuple[Fold, ...]]:
    """Return the folds of several states, in their order, for each type of event."""
    folds = [state.folds() for state in states]
    return {
        event_type: tuple(one[event_type] for one in folds if event_type in one)
        for event_type in EVENT_TYPES.values()
    }
