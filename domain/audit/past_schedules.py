"""The schedules at an earlier moment, without their payloads.

A payload may have 16 KiB, and stands in the event that set the schedule: the position of that event
takes its place, so that states of the past stay small.
"""

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from msgspec.structs import replace

from domain.language.events import Recorded, ScheduleDeleted, ScheduleSet
from domain.language.identifiers import ScheduleName
from domain.log.folds import FoldMethods
from domain.schedules.schedule import Schedule, Schedules


class PastSchedule(NamedTuple):
    """A schedule at an earlier moment. Its payload is empty."""

    set_position: int  # of the event that made or last changed it, which has the payload
    schedule: Schedule


class PastSchedules(Schedules):
    """All schedules that there are, folded from the log."""

    def __init__(self) -> None:
        super().__init__()
        self._set_positions: dict[ScheduleName, int] = {}

    def know(self, schedules: Iterable[PastSchedule]) -> None:
        """Take the schedules of a snapshot."""
        for one in schedules:
            self.rows[one.schedule.name] = one.schedule
            self._set_positions[one.schedule.name] = one.set_position

    def in_order(self) -> list[PastSchedule]:
        """Return all schedules, by name."""
        return [
            PastSchedule(self._set_positions[name], schedule)
            for name, schedule in sorted(self.rows.items())
            if schedule is not None
        ]

    def _set(self, recorded: Recorded, event: ScheduleSet) -> None:
        super()._set(recorded, replace(event, payload=""))
        self._set_positions[event.name] = recorded.position

    def _deleted(self, _: Recorded, event: ScheduleDeleted) -> None:
        self.rows.pop(event.name, None)
        self._set_positions.pop(event.name, None)

    FOLDS: ClassVar[FoldMethods] = {
        **Schedules.FOLDS,
        ScheduleSet: _set,
        ScheduleDeleted: _deleted,
    }
