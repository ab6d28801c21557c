"""Decides commands about schedules. A run of one is a submission like any other, and an event that
moves the schedule on.
"""

from collections.abc import Callable
from datetime import datetime
from typing import assert_never

from domain.access.keys import ApiKey
from domain.decisions.answers import ScheduleDecided
from domain.decisions.decision import Decision, NewEvent
from domain.decisions.write_model import WriteModel
from domain.jobs import life_cycle
from domain.jobs.job import ENDED, Job
from domain.language.bodies import stored_body
from domain.language.commands import (
    BackfillSchedule,
    CancelJob,
    DeleteSchedule,
    FireSchedule,
    ScheduleCommand,
    SetSchedule,
    SubmitJob,
    TriggerSchedule,
)
from domain.language.errors import (
    NotForUser,
    RateLimited,
    Refusal,
    UnknownSchedule,
    without_traceback,
)
from domain.language.events import Event, JobSubmitted, ScheduleDeleted, ScheduleFired
from domain.language.identifiers import ScheduleName
from domain.language.policy import Policy
from domain.language.schedules import Overlap, RunCause, RunOutcome
from domain.schedules.rules import (
    decide_backfill,
    decide_set,
    fired,
    is_missed,
    last_chance,
    overlapping,
    run_digest,
)
from domain.schedules.schedule import DueRun, Schedule

Submit = Callable[[WriteModel, SubmitJob, ApiKey | None, Policy, datetime], Decision]


def decide_schedule(
    model: WriteModel,
    command: ScheduleCommand,
    key: ApiKey | None,
    policy: Policy,
    now: datetime,
    submit: Submit,
) -> Decision:
    """Decide a command about a schedule; `submit` decides the submission of a run."""
    name = command.name
    schedule = model.schedules.rows.get(name)
    if isinstance(command, FireSchedule):
        if schedule is None:
            return _decided(name)
        run = schedule.due_run(now, is_job_open=_open_job(model, schedule) is not None)
        return _decided(name) if run is None else _run(model, schedule, run, policy, now, submit)
    is_visible = schedule is None or _is_visible(key, schedule)
    if isinstance(command, SetSchedule):
        if not is_visible and key is not None:
            return Decision([], NotForUser(key.name, command.user_id))
        changed = decide_set(schedule, command, now)
        return _decided(name, *([] if changed is None else [changed]))
    if schedule is None or not is_visible:
        return Decision([], UnknownSchedule(name))
    match command:
        case DeleteSchedule():
            deleted = ScheduleDeleted(
                name=name, user_id=schedule.set.user_id, kind=schedule.set.kind
            )
            return _decided(name, deleted)
        case BackfillSchedule():
            try:
                return _decided(name, decide_backfill(schedule, command, now))
            except Refusal as refusal:
                return Decision([], without_traceback(refusal))
        case TriggerSchedule():
            return _run(model, schedule, DueRun(now, RunCause.TRIGGER), policy, now, submit)
        case _:
            assert_never(command)


def _run(
    model: WriteModel,
    schedule: Schedule,
    run: DueRun,
    policy: Policy,
    now: datetime,
    submit: Submit,
) -> Decision:
    """Submit the job of a run, or say why not. A trigger is refused as a submission would be."""
    name = schedule.name
    if is_missed(schedule, run, now):
        return _decided(name, fired(schedule, run, RunOutcome.MISSED, now))
    job = _open_job(model, schedule)
    if job is not None and (outcome := overlapping(schedule, run)) is not None:
        return _decided(name, fired(schedule, run, outcome, now))
    decision = submit(model, _submission(schedule, run), None, policy, now)
    if isinstance(decision.reply, Refusal):
        if run.cause is RunCause.TRIGGER:
            return decision
        return _refused(schedule, run, decision, decision.reply, now)
    [job_id] = [new.job_id for new in decision.new_events if isinstance(new.event, JobSubmitted)]
    moved = fired(schedule, run, RunOutcome.SUBMITTED, now, job=job_id)
    new_events = [*decision.new_events, NewEvent(moved)]
    if (
        job is not None
        and run.cause is not RunCause.BACKFILL
        and schedule.set.overlap is Overlap.CANCEL_OTHER
    ):
        cancelled = life_cycle.decide(job, CancelJob(job_id=job.id), now)
        new_events += [NewEvent(event, job.id) for event in cancelled]
    return Decision(new_events, _answer(name, moved))


def _refused(
    schedule: Schedule, run: DueRun, decision: Decision, refusal: Refusal, now: datetime
) -> Decision:
    """Put a run off to the end of the window that refused it, if its catch-up window allows."""
    again_at = refusal.resets_at if isinstance(refusal, RateLimited) else None
    if again_at is not None and run.cause is RunCause.TIME:
        again_at = again_at if again_at <= last_chance(schedule, run) else None
    outcome = RunOutcome.REFUSED if again_at is None else RunOutcome.DEFERRED
    moved = fired(schedule, run, outcome, now, reason=str(refusal), again_at=again_at)
    return Decision([*decision.new_events, NewEvent(moved)], _answer(schedule.name, moved))


def _submission(schedule: Schedule, run: DueRun) -> SubmitJob:
    event = schedule.set
    return SubmitJob(
        user_id=event.user_id,
        kind=event.kind,
        payload=stored_body(event.payload.encode()),
        digest=run_digest(event.name, run.due_at),
        deduplicate=False,  # each run is decided once, so its key is its own
        schedule=event.name,
    )


def _open_job(model: WriteModel, schedule: Schedule) -> Job | None:
    """Return the latest job of a schedule if it has not ended."""
    job = None if schedule.job is None else model.jobs.rows.get(schedule.job)
    return None if job is None or job.state in ENDED else job


def _is_visible(key: ApiKey | None, schedule: Schedule) -> bool:
    return key is None or key.is_for(schedule.set.user_id, schedule.set.kind)


def _decided(name: ScheduleName, *events: Event) -> Decision:
    run = events[0] if events and isinstance(events[0], ScheduleFired) else None
    return Decision([NewEvent(event) for event in events], _answer(name, run))


def _answer(
    name: ScheduleName, run: ScheduleFired | None
) -> Callable[[WriteModel], ScheduleDecided]:
    return lambda after: ScheduleDecided(after.schedules.rows.get(name), run)
