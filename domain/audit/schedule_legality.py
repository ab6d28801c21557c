"""Legality of schedules: each due time is decided once, in order, when it has come.

Due times themselves are not computed again: they depend on the time zones that were known then.
"""

from collections.abc import Mapping
from typing import assert_never

from domain.jobs.job import Job
from domain.language.events import (
    JobSubmitted,
    Recorded,
    ScheduleBackfillBegun,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleSet,
)
from domain.language.identifiers import JobId
from domain.language.moments import later
from domain.language.schedules import Overlap, RunCause, RunOutcome
from domain.schedules.schedule import Schedule, Schedules

_ScheduleEvent = ScheduleSet | ScheduleDeleted | ScheduleFired | ScheduleBackfillBegun


def check_schedule_event(_: Job | None, recorded: Recorded, event: _ScheduleEvent) -> str | None:
    """Check what needs no other event; `misfired` checks the rest."""
    if recorded.job_id is not None:
        return f"it names job {recorded.job_id}"
    match event:
        case ScheduleSet():
            return _check_set(event)
        case ScheduleFired():
            return _check_run(recorded, event)
        case ScheduleBackfillBegun():
            is_inside = event.from_at <= event.next_due_at < event.until_at
            return None if is_inside else "its first due time is outside its span"
        case ScheduleDeleted():
            return None
        case _:
            assert_never(event)


def misfired(schedules: Schedules, jobs: Mapping[JobId, Job], recorded: Recorded) -> str | None:
    """Say what is wrong with an event of a schedule, given the state before it; None if nothing
    is.
    """
    event = recorded.event
    match event:
        case JobSubmitted(schedule=str(name)):
            if schedules.rows.get(name) is None:
                return f"there was no schedule {name!r} to submit it"
        case ScheduleDeleted() | ScheduleFired() | ScheduleBackfillBegun():
            schedule = schedules.rows.get(event.name)
            if schedule is None:
                return f"there was no schedule {event.name!r}"
            if (event.user_id, event.kind) != (schedule.set.user_id, schedule.set.kind):
                return f"the schedule {event.name!r} was of another user or kind"
            if isinstance(event, ScheduleFired):
                return _wrong_time(schedule, recorded, event) or _wrong_job(jobs, recorded, event)
    return None


def _check_set(event: ScheduleSet) -> str | None:
    timing = event.timing
    if (timing.cron is None) == (timing.every_seconds is None):
        return "it has a cron expression and an interval, or neither"
    if timing.every_seconds is not None and timing.every_seconds < 1:
        return f"its interval is {timing.every_seconds} seconds"
    if event.paused:
        return None if event.next_due_at is None else "it is paused, but has a next due time"
    if event.next_due_at is None or event.fires_at is None:
        return None if event.next_due_at is event.fires_at else "its next due time is not decided"
    latest = later(event.next_due_at, timing.jitter_seconds + event.catch_up_seconds)
    is_inside = event.next_due_at <= event.fires_at <= latest
    return None if is_inside else "its next due time is decided too early or too late"


def _check_run(recorded: Recorded, event: ScheduleFired) -> str | None:
    if (event.outcome is RunOutcome.SUBMITTED) != (event.job is not None):
        return f"its outcome is {event.outcome.value}, and its job {event.job}"
    if event.job is not None and event.job != recorded.position - 1:
        return f"it names job {event.job}, which was not submitted just before it"
    next_due_at = event.next_due_at
    if event.outcome is RunOutcome.DEFERRED:
        is_again = next_due_at == event.due_at and event.fires_at is not None
        return None if is_again else "it was deferred, but is not decided again"
    if next_due_at is not None and next_due_at <= event.due_at:
        return "the next due time is not later than its own"
    return None


def _wrong_time(schedule: Schedule, recorded: Recorded, event: ScheduleFired) -> str | None:
    now = recorded.recorded_at
    match event.cause:
        case RunCause.TIME:
            due_at, fires_at = schedule.due_at, schedule.fires_at
            is_late = now > later(event.due_at, schedule.set.catch_up_seconds)
            if event.outcome is RunOutcome.MISSED and not is_late:
                return "it was missed, although its catch-up window was open"
        case RunCause.BUFFER:
            due_at, fires_at = schedule.buffered_at, schedule.buffer_fires_at or now
        case RunCause.BACKFILL:
            backfill = schedule.backfill
            due_at = None if backfill is None else backfill.due_at
            fires_at = None if backfill is None else backfill.fires_at
        case RunCause.TRIGGER:
            due_at = fires_at = now
        case _:
            assert_never(event.cause)
    if event.due_at != due_at:
        return f"the next due time was {due_at}, not {event.due_at}"
    if fires_at is None or fires_at > now:
        return "its time had not come"
    skips = event.outcome in {RunOutcome.OVERLAP, RunOutcome.BUFFERED}
    if skips and schedule.set.overlap not in {Overlap.SKIP, Overlap.BUFFER_ONE}:
        return f"it was {event.outcome.value} with the overlap policy {schedule.set.overlap.value}"
    return None


def _wrong_job(jobs: Mapping[JobId, Job], recorded: Recorded, event: ScheduleFired) -> str | None:
    if event.job is None:
        return None
    job = jobs.get(event.job)
    if job is None:
        return f"job {event.job} did not exist"
    if (job.user_id, job.kind) != (event.user_id, event.kind):
        return f"job {job.id} is of another user or kind"
    return None if job.submitted_at <= recorded.recorded_at else f"job {job.id} is later than it"
