"""The rules of schedules: how one is changed, and how its runs move it on."""

from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from itertools import islice

from msgspec.structs import replace

from domain.language.commands import BackfillSchedule, SetSchedule
from domain.language.errors import BackfillGoesOn, NothingToBackfill, TooManyTimes
from domain.language.events import ScheduleBackfillBegun, ScheduleFired, ScheduleSet
from domain.language.identifiers import JobId, ScheduleName
from domain.language.moments import later, to_micros
from domain.language.schedules import (
    BACKFILL_TIMES_MAX,
    Overlap,
    RunCause,
    RunOutcome,
    Timing,
)
from domain.schedules.schedule import DueRun, Schedule
from domain.schedules.timing import first_time, next_time, put_off


def decide_set(before: Schedule | None, command: SetSchedule, now: datetime) -> ScheduleSet | None:
    """Return the event of a new or changed schedule; None: nothing changes.

    A due time that has come stays due, unless the timing changes or the schedule is paused.
    """
    event = ScheduleSet(
        name=command.name,
        user_id=command.user_id,
        kind=command.kind,
        payload=command.payload,
        timing=command.timing,
        overlap=command.overlap,
        catch_up_seconds=command.catch_up_seconds,
        paused=command.paused,
    )
    if before is not None:
        settled = replace(before.set, by=None, next_due_at=None, fires_at=None)
        if settled == event:
            return None
    if command.paused:
        return event
    if before is not None and before.due_at and before.set.timing == command.timing:
        return replace(event, next_due_at=before.due_at, fires_at=before.fires_at)
    next_due_at = next_time(command.timing, now)
    return replace(event, next_due_at=next_due_at, fires_at=_fires_at(event, next_due_at))


def decide_backfill(
    schedule: Schedule, command: BackfillSchedule, now: datetime
) -> ScheduleBackfillBegun:
    """Return the event that begins a backfill.

    Raises `BackfillGoesOn`, `NothingToBackfill` and `TooManyTimes`.
    """
    if schedule.backfill is not None:
        raise BackfillGoesOn(schedule.name, schedule.backfill.until_at)
    # A time that has not come yet is due by itself.
    until_at = min(command.until_at, now)
    timing = schedule.set.timing
    times = list(islice(_times_between(timing, command.from_at, until_at), BACKFILL_TIMES_MAX + 1))
    if not times:
        raise NothingToBackfill(schedule.name)
    if len(times) > BACKFILL_TIMES_MAX:
        raise TooManyTimes(BACKFILL_TIMES_MAX, times[BACKFILL_TIMES_MAX])
    return ScheduleBackfillBegun(
        name=schedule.name,
        user_id=schedule.set.user_id,
        kind=schedule.set.kind,
        from_at=command.from_at,
        until_at=until_at,
        next_due_at=times[0],
    )


def _times_between(timing: Timing, start: datetime, end: datetime) -> Iterator[datetime]:
    due_at = first_time(timing, start)
    while due_at is not None and due_at < end:
        yield due_at
        due_at = next_time(timing, due_at)


def is_missed(schedule: Schedule, run: DueRun, now: datetime) -> bool:
    """Return True if the catch-up window of a due time is over."""
    return run.cause is RunCause.TIME and last_chance(schedule, run) < now


def last_chance(schedule: Schedule, run: DueRun) -> datetime:
    """Return when the catch-up window of a due time ends, UTC, inclusive."""
    event = schedule.set
    return later(put_off(event.timing, event.name, run.due_at), event.catch_up_seconds)


def overlapping(schedule: Schedule, run: DueRun) -> RunOutcome | None:
    """Return the outcome of a run while the latest job has not ended; None: it is submitted."""
    if run.cause is RunCause.BACKFILL:  # asked for by somebody who wants all of its times
        return None
    match schedule.set.overlap:
        case Overlap.SKIP:
            return RunOutcome.OVERLAP
        case Overlap.BUFFER_ONE:
            is_free = schedule.buffered_at is None or run.cause is RunCause.BUFFER
            return RunOutcome.BUFFERED if is_free else RunOutcome.OVERLAP
        case Overlap.ALLOW_ALL | Overlap.CANCEL_OTHER:
            return None


def fired(
    schedule: Schedule,
    run: DueRun,
    outcome: RunOutcome,
    now: datetime,
    *,
    job: JobId | None = None,
    reason: str | None = None,
    again_at: datetime | None = None,
) -> ScheduleFired:
    """Return the event of a run, with the due time that is next.

    `job` is given for the outcome SUBMITTED alone: the job that was submitted. `reason` is given
    for REFUSED and DEFERRED: the message of the refusal. `again_at` is given for DEFERRED alone:
    the time, UTC, at which the run is decided again.
    """
    event = ScheduleFired(
        name=schedule.name,
        user_id=schedule.set.user_id,
        kind=schedule.set.kind,
        cause=run.cause,
        due_at=run.due_at,
        outcome=outcome,
        job=job,
        reason=reason,
    )
    if outcome is RunOutcome.DEFERRED:
        return replace(event, next_due_at=run.due_at, fires_at=again_at)
    timing = schedule.set.timing
    match run.cause:
        case RunCause.TIME:
            next_due_at = next_time(timing, run.due_at)
            if outcome is RunOutcome.MISSED:
                # All times whose window is over are missed together, however many there are.
                window = schedule.set.catch_up_seconds + timing.jitter_seconds
                start = max(later(run.due_at, 1), later(now, -window))
                next_due_at = first_time(timing, start)
            return replace(
                event, next_due_at=next_due_at, fires_at=_fires_at(schedule.set, next_due_at)
            )
        case RunCause.BACKFILL:
            next_due_at = next_time(timing, run.due_at)
            backfill = schedule.backfill
            if backfill is None or next_due_at is None or next_due_at >= backfill.until_at:
                return event
            return replace(event, next_due_at=next_due_at, fires_at=now)
        case RunCause.BUFFER | RunCause.TRIGGER:
            return event


def run_digest(name: ScheduleName, due_at: datetime) -> str:
    """Return what the idempotency key of a run's job is made from: a digest in hex."""
    return sha256(f"schedule\0{name}\0{to_micros(due_at)}".encode()).hexdigest()


def _fires_at(event: ScheduleSet, due_at: datetime | None) -> datetime | None:
    return None if due_at is None else put_off(event.timing, event.name, due_at)
