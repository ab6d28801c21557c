"""Schedules as answers show them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from domain.audit.past_schedules import PastSchedule
from domain.language.events import ScheduleFired
from domain.language.identifiers import JobId, Kind, ScheduleName, UserId
from domain.language.ranges import JOB_ID, NAME, POSITION, Time
from domain.language.schedules import (
    CATCH_UP_SECONDS_MIN,
    JITTER_SECONDS_MAX,
    SCHEDULE_SECONDS_MAX,
    Overlap,
    RunCause,
    RunOutcome,
)
from domain.schedules.schedule import Schedule
from domain.schedules.timing import next_time

NEXT_RUNS_SHOWN: Final = 5

_Interval = Annotated[int, Meta(ge=1, le=SCHEDULE_SECONDS_MAX)]
_CatchUp = Annotated[int, Meta(ge=CATCH_UP_SECONDS_MIN, le=SCHEDULE_SECONDS_MAX)]
_Jitter = Annotated[int, Meta(ge=0, le=JITTER_SECONDS_MAX)]
_DueAt = Annotated[Time, Meta(description="The due time that it is for, by the schedule.")]
_Job = Annotated[
    Annotated[JobId, JOB_ID] | None, Meta(description="The job that was submitted. null: none.")
]
_Outcome = Annotated[
    RunOutcome,
    Meta(
        description="submitted: its job was. buffered: it waits for the end of the latest job. "
        "overlap: skipped, since the latest job had not ended. missed: skipped, with all times up "
        "to the next one, since the catch-up window was over. deferred: the user's limits allow it "
        "later. refused: skipped, since the submission was refused."
    ),
]
_Cause = Annotated[
    RunCause,
    Meta(
        description="time: it was due. buffer: the job that it waited for ended. trigger: it was "
        "asked for. backfill: a backfill came to it."
    ),
]
_Reason = Annotated[
    str | None, Meta(description="Why the submission was refused. null: it was not.")
]


class RunView(Struct, frozen=True):
    """A run of a schedule that was decided."""

    due_at: _DueAt
    cause: _Cause
    outcome: _Outcome
    job_id: _Job
    reason: _Reason


class LastRunView(RunView, frozen=True, kw_only=True):
    """The latest run of a schedule."""

    decided_at: Annotated[Time, Meta(description="When it was decided.")]


class BackfillView(Struct, frozen=True):
    """A backfill that goes on."""

    next_at: Annotated[Time, Meta(description="The due time that it comes to next.")]
    until: Annotated[Time, Meta(description="The end of its span, exclusive.")]


class ScheduleFields(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule as it is shown of any moment."""

    name: Annotated[ScheduleName, NAME, Meta(description="The name of the schedule.")]
    user_id: Annotated[UserId, NAME, Meta(description="The user whose jobs it submits.")]
    kind: Annotated[Kind, NAME, Meta(description="The kind of its jobs.")]
    cron: Annotated[str | None, Meta(description="The cron expression. null: an interval.")]
    every_seconds: Annotated[
        _Interval | None, Meta(description="The interval. null: a cron expression.")
    ]
    time_zone: Annotated[str, Meta(description="The time zone of the cron expression.")]
    overlap: Annotated[Overlap, Meta(description="See the request.")]
    catch_up_seconds: Annotated[_CatchUp, Meta(description="See the request.")]
    jitter_seconds: Annotated[_Jitter, Meta(description="See the request.")]
    paused: Annotated[bool, Meta(description="True: no time is due.")]
    created_at: Annotated[Time, Meta(description="When the schedule was made.")]
    changed_at: Annotated[Time, Meta(description="When it was last made or changed.")]
    next_run_at: Annotated[
        Time | None,
        Meta(description="When the next due time is decided: with its jitter. null: paused."),
    ]
    last_run: Annotated[LastRunView | None, Meta(description="The latest run. null: none yet.")]
    last_job_id: Annotated[
        Annotated[JobId, JOB_ID] | None,
        Meta(description="The latest job that it submitted. null: none yet."),
    ]
    buffered_at: Annotated[
        Time | None,
        Meta(description="The due time of the run that waits for that job. null: none waits."),
    ]
    backfill: Annotated[BackfillView | None, Meta(description="null: no backfill goes on.")]


class ScheduleView(ScheduleFields, frozen=True, kw_only=True):
    """A schedule and its runs."""

    payload: Annotated[Raw, Meta(description="The payload of each job: any JSON value.")]
    next_due_at: Annotated[
        Sequence[Time], Meta(description="The next due times, at most 5; none while paused.")
    ]
    run: Annotated[
        RunView | UnsetType, Meta(description="In the answer to a trigger: what came of it.")
    ] = UNSET


class PastScheduleView(ScheduleFields, frozen=True, kw_only=True):
    """A schedule at an earlier moment."""

    set_position: Annotated[
        int,
        POSITION,
        Meta(description="The position of the event that set it, which has the payload."),
    ]
    next_due_at: Annotated[Time | None, Meta(description="The next due time. null: paused.")]


class SchedulePage(Struct, frozen=True):
    """One page of schedules."""

    schedules: Annotated[list[ScheduleView], Meta(description="Schedules, by name.")]
    next: Annotated[
        str | None, Meta(description="The cursor of the next page. null: this is the last one.")
    ]


def schedule_view(schedule: Schedule, run: ScheduleFired | None = None) -> ScheduleView:
    """Return the view of a schedule; `run` is one that was just decided."""
    return ScheduleView(
        **_fields(schedule),
        payload=Raw(schedule.set.payload.encode()),
        next_due_at=_next_times(schedule),
        run=UNSET
        if run is None
        else RunView(run.due_at, run.cause, run.outcome, run.job, run.reason),
    )


def past_schedule_view(past: PastSchedule) -> PastScheduleView:
    schedule = past.schedule
    return PastScheduleView(
        **_fields(schedule), set_position=past.set_position, next_due_at=schedule.due_at
    )


def _fields(schedule: Schedule) -> dict[str, Any]:
    """Return the values of `ScheduleFields`."""
    event, timing, last = schedule.set, schedule.set.timing, schedule.last
    backfill = schedule.backfill
    return {
        "name": event.name,
        "user_id": event.user_id,
        "kind": event.kind,
        "cron": timing.cron,
        "every_seconds": timing.every_seconds,
        "time_zone": timing.time_zone,
        "overlap": event.overlap,
        "catch_up_seconds": event.catch_up_seconds,
        "jitter_seconds": timing.jitter_seconds,
        "paused": event.paused,
        "created_at": schedule.created_at,
        "changed_at": schedule.changed_at,
        "next_run_at": schedule.fires_at,
        "last_run": None
        if last is None
        else LastRunView(
            last.due_at,
            last.cause,
            last.outcome,
            last.job,
            last.reason,
            decided_at=last.decided_at,
        ),
        "last_job_id": schedule.job,
        "buffered_at": schedule.buffered_at,
        "backfill": None if backfill is None else BackfillView(backfill.due_at, backfill.until_at),
    }


def _next_times(schedule: Schedule) -> list[datetime]:
    """Return the next due times: the recorded one, and those that follow by today's time zones."""
    times: list[datetime] = []
    due_at = schedule.due_at
    while due_at is not None and len(times) < NEXT_RUNS_SHOWN:
        times.append(due_at)
        due_at = next_time(schedule.set.timing, due_at)
    return times
