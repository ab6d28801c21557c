"""A schedule, the fold of its events, and which run is due."""

from datetime import datetime
from typing import ClassVar, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from domain.language.events import (
    Recorded,
    ScheduleBackfillBegun,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleSet,
)
from domain.language.identifiers import JobId, ScheduleName
from domain.language.schedules import Overlap, RunCause, RunOutcome
from domain.log.folds import Folded, FoldMethods


class Backfill(Struct, frozen=True):
    """A backfill that goes on."""

    due_at: datetime  # UTC, the next due time to be run
    until_at: datetime  # UTC, exclusive
    fires_at: datetime  # UTC, when it is decided


class LastRun(Struct, frozen=True, omit_defaults=True):
    """The latest run that was decided."""

    due_at: datetime  # UTC, the time that it was for
    decided_at: datetime  # UTC
    cause: RunCause
    outcome: RunOutcome
    job: JobId | None = None
    reason: str | None = None


class DueRun(NamedTuple):
    """A run to be decided now."""

    due_at: datetime  # UTC, the time that it is for
    cause: RunCause


class Schedule(Struct, frozen=True, omit_defaults=True):
    """A schedule as its events left it. All times are UTC."""

    set: ScheduleSet  # the latest one
    created_at: datetime
    changed_at: datetime  # the time of `set`
    due_at: datetime | None = None  # the next due time; None: paused
    fires_at: datetime | None = None  # when it is decided
    buffered_at: datetime | None = None  # the due time of the buffered run; None: there is none
    buffer_fires_at: datetime | None = None  # when it is decided; None: when `job` has ended
    backfill: Backfill | None = None
    job: JobId | None = None  # the latest that was submitted
    last: LastRun | None = None

    @property
    def name(self) -> ScheduleName:
        return self.set.name

    @property
    def wakes_at(self) -> datetime | None:
        """The time at which a run has to be decided; None: time alone brings none."""
        times = (
            self.fires_at,
            self.buffer_fires_at,
            None if self.backfill is None else self.backfill.fires_at,
        )
        return min((one for one in times if one is not None), default=None)

    @property
    def waits_for(self) -> JobId | None:
        """The job whose end has a buffered run decided; None: no run waits for one."""
        return self.job if self.buffered_at is not None and self.buffer_fires_at is None else None

    def due_run(self, now: datetime, *, is_job_open: bool) -> DueRun | None:
        """Return the run to decide now; None: none is due. `is_job_open`: `job` has not ended."""
        if self.buffered_at is not None:
            fires_at = self.buffer_fires_at
            if not is_job_open if fires_at is None else fires_at <= now:
                return DueRun(self.buffered_at, RunCause.BUFFER)
        if self.backfill is not None and self.backfill.fires_at <= now:
            return DueRun(self.backfill.due_at, RunCause.BACKFILL)
        if self.due_at is not None and self.fires_at is not None and self.fires_at <= now:
            return DueRun(self.due_at, RunCause.TIME)
        return None


class Schedules(Folded):
    """The schedules in memory."""

    def __init__(self) -> None:
        self.rows: dict[ScheduleName, Schedule | None] = {}  # None: it was deleted
        self.changed: set[ScheduleName] = set()

    def evict(self) -> None:
        """Drop all schedules, whose rows are written."""
        self.rows.clear()

    def _put(self, name: ScheduleName, schedule: Schedule | None) -> None:
        self.rows[name] = schedule
        self.changed.add(name)

    def _set(self, recorded: Recorded, event: ScheduleSet) -> None:
        now = recorded.recorded_at
        before = self.rows.get(event.name) or Schedule(event, now, now)
        keeps_buffer = event.overlap is Overlap.BUFFER_ONE and not event.paused
        self._put(
            event.name,
            replace(
                before,
                set=event,
                changed_at=now,
                due_at=event.next_due_at,
                fires_at=event.fires_at,
                buffered_at=before.buffered_at if keeps_buffer else None,
                buffer_fires_at=before.buffer_fires_at if keeps_buffer else None,
            ),
        )

    def _deleted(self, _: Recorded, event: ScheduleDeleted) -> None:
        self._put(event.name, None)

    def _backfill_begun(self, recorded: Recorded, event: ScheduleBackfillBegun) -> None:
        before = self.rows.get(event.name)
        if before is not None:
            backfill = Backfill(event.next_due_at, event.until_at, recorded.recorded_at)
            self._put(event.name, replace(before, backfill=backfill))

    def _fired(self, recorded: Recorded, event: ScheduleFired) -> None:
        before = self.rows.get(event.name)
        if before is not None:
            self._put(event.name, _after_run(before, recorded, event))

    FOLDS: ClassVar[FoldMethods] = {
        ScheduleSet: _set,
        ScheduleDeleted: _deleted,
        ScheduleBackfillBegun: _backfill_begun,
        ScheduleFired: _fired,
    }


def _after_run(schedule: Schedule, recorded: Recorded, event: ScheduleFired) -> Schedule:
    next_due_at, fires_at = event.next_due_at, event.fires_at
    last = LastRun(
        event.due_at, recorded.recorded_at, event.cause, event.outcome, event.job, event.reason
    )
    after = replace(schedule, last=last, job=schedule.job if event.job is None else event.job)
    match event.cause:
        case RunCause.TIME:
            after = replace(after, due_at=next_due_at, fires_at=fires_at)
        case RunCause.BUFFER:
            after = replace(after, buffered_at=next_due_at, buffer_fires_at=fires_at)
        case RunCause.BACKFILL:
            backfill = None
            if schedule.backfill is not None and next_due_at is not None and fires_at is not None:
                backfill = Backfill(next_due_at, schedule.backfill.until_at, fires_at)
            after = replace(after, backfill=backfill)
        case RunCause.TRIGGER:
            pass
    if event.outcome is RunOutcome.BUFFERED:
        after = replace(after, buffered_at=event.due_at, buffer_fires_at=None)
    return after
