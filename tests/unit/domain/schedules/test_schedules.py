"""Schedules: what each command and each due time gives, by example."""

from typing import Any

import pytest
from msgspec.structs import replace

from domain.decisions.answers import ScheduleDecided
from domain.language.commands import (
    BackfillSchedule,
    ChangeLimit,
    DeleteSchedule,
    FireSchedule,
    SetSchedule,
    TriggerSchedule,
)
from domain.language.errors import (
    BackfillGoesOn,
    MissingRight,
    NotForUser,
    NothingToBackfill,
    RateLimited,
    TooManyTimes,
    UnknownSchedule,
)
from domain.language.events import (
    JobCancelled,
    JobSubmitted,
    RateLimitDecided,
    Role,
    ScheduleBackfillBegun,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleSet,
    Scope,
)
from domain.language.identifiers import JobId, ScheduleName
from domain.language.schedules import Overlap, RunCause, RunOutcome, Timing
from domain.schedules.schedule import Schedule
from tests.support.given import Given, When, at, given
from tests.support.keys import by, key_created
from tests.support.stories import ALICE, BOB, ECHO, SLEEP, claim, complete, fail

NAME = ScheduleName("nightly")
MINUTELY = Timing(every_seconds=60)  # NOW is such a time, so the next ones are at(60), at(120) …
FIRE = FireSchedule(name=NAME)


def set_schedule(timing: Timing = MINUTELY, **fields: Any) -> SetSchedule:
    fixed: dict[str, Any] = {"user_id": ALICE, "kind": ECHO, "payload": '{"n":1}'}
    return SetSchedule(name=NAME, timing=timing, **(fixed | fields))


def scheduled(timing: Timing = MINUTELY, **fields: Any) -> Given:
    return given().when(set_schedule(timing, **fields)).so


def schedule_of(story: Given) -> Schedule:
    found = story.model.schedules.rows[NAME]
    assert found is not None
    return found


def run_of(when: When) -> ScheduleFired:
    """The only run that was decided."""
    [run] = [one for one in when.events if isinstance(one, ScheduleFired)]
    return run


def jobs_of(when: When) -> int:
    return sum(isinstance(one, JobSubmitted) for one in when.events)


def outcomes(story: Given) -> list[tuple[float, RunOutcome]]:
    """Decide all that is due, and return the due times, in seconds after NOW, and outcomes."""
    found: list[tuple[float, RunOutcome]] = []
    while True:
        fired = [one for one in story.when(FIRE).events if isinstance(one, ScheduleFired)]
        if not fired:
            return found
        [run] = fired
        found.append(((run.due_at - at(0)).total_seconds(), run.outcome))
        story = story.when(FIRE).so


def end_of_job(story: Given) -> Given:
    """Run the oldest job to its end."""
    started = story.when(claim()).so
    job = schedule_of(story).job
    assert job is not None
    return started.when(complete(job_id=job)).so


def test_a_new_schedule_is_due_at_its_next_time() -> None:
    given().when(set_schedule()).then(
        ScheduleSet(
            name=NAME,
            user_id=ALICE,
            kind=ECHO,
            payload='{"n":1}',
            timing=MINUTELY,
            overlap=Overlap.SKIP,
            catch_up_seconds=3600,
            next_due_at=at(60),
            fires_at=at(60),
        )
    )


def test_the_same_schedule_again_changes_nothing() -> None:
    scheduled().when(set_schedule()).then_nothing()


def test_nothing_is_submitted_before_its_time() -> None:
    scheduled().after(59.9).when(FIRE).then_nothing()
    given().when(FIRE).then_nothing()  # nor by a schedule that does not exist


def test_a_due_time_submits_a_job_and_moves_on_once() -> None:
    when = scheduled().after(60.5).when(FIRE)
    decided, submitted, run = when.events
    assert isinstance(decided, RateLimitDecided)
    assert decided.allowed
    assert isinstance(submitted, JobSubmitted)
    assert (submitted.user_id, submitted.kind, submitted.schedule) == (ALICE, ECHO, NAME)
    assert submitted.payload_bytes == len('{"n":1}')
    assert run == ScheduleFired(
        name=NAME,
        user_id=ALICE,
        kind=ECHO,
        cause=RunCause.TIME,
        due_at=at(60),
        outcome=RunOutcome.SUBMITTED,
        job=JobId(3),
        next_due_at=at(120),
        fires_at=at(120),
    )
    when.so.when(FIRE).then_nothing()
    assert when.recorded[1].job_id == when.recorded[1].position == 3
    [(_, body)] = [(one.position, one) for one in when.recorded if one.position == 3]
    assert body.job_id == 3


def test_two_servers_that_find_the_same_due_time_submit_one_job() -> None:
    when = scheduled(overlap=Overlap.ALLOW_ALL).after(60).when(FIRE, FIRE, FIRE)
    assert jobs_of(when) == 1


def test_keys_of_runs_are_their_own() -> None:
    story = scheduled(overlap=Overlap.ALLOW_ALL)
    keys = set()
    for _ in range(3):
        when = story.after(60).when(FIRE)
        [submitted] = [one for one in when.events if isinstance(one, JobSubmitted)]
        keys.add(submitted.idempotency_key)
        story = when.so
    again = story.when(BackfillSchedule(name=NAME, from_at=at(0), until_at=at(500))).so
    when = again.when(FIRE)
    [submitted] = [one for one in when.events if isinstance(one, JobSubmitted)]
    assert len(keys | {submitted.idempotency_key}) == 4


# Overlap policies


def test_skip_submits_nothing_while_the_latest_job_has_not_ended() -> None:
    story = scheduled().after(60).when(FIRE).so.after(60)
    assert outcomes(story) == [(120, RunOutcome.OVERLAP)]
    assert outcomes(end_of_job(story)) == [(120, RunOutcome.SUBMITTED)]


def test_a_failed_job_has_ended_and_one_that_is_tried_again_has_not() -> None:
    story = scheduled().after(60).when(FIRE).so.when(claim()).so
    [job] = [schedule_of(story).job]
    assert job is not None
    retried = story.when(fail(job_id=job)).so.after(60)
    assert outcomes(retried) == [(120, RunOutcome.OVERLAP)]
    failed = story.when(fail(job_id=job, may_retry=False)).so.after(60)
    assert outcomes(failed) == [(120, RunOutcome.SUBMITTED)]


def test_allow_all_submits_each() -> None:
    story = scheduled(overlap=Overlap.ALLOW_ALL).after(180)
    assert outcomes(story) == [(60 * n, RunOutcome.SUBMITTED) for n in (1, 2, 3)]


def test_cancel_other_submits_a_job_and_cancels_the_latest() -> None:
    story = scheduled(overlap=Overlap.CANCEL_OTHER).after(60).when(FIRE).so
    before = schedule_of(story).job
    when = story.after(60).when(FIRE)
    assert [type(one) for one in when.events] == [
        RateLimitDecided,
        JobSubmitted,
        ScheduleFired,
        JobCancelled,
    ]
    assert when.recorded[3].job_id == before
    assert schedule_of(when.so).job == when.recorded[1].job_id


def test_cancel_other_cancels_nothing_that_has_ended() -> None:
    story = end_of_job(scheduled(overlap=Overlap.CANCEL_OTHER).after(60).when(FIRE).so)
    when = story.after(60).when(FIRE)
    assert [type(one) for one in when.events] == [RateLimitDecided, JobSubmitted, ScheduleFired]


def test_buffer_one_submits_one_job_when_the_latest_has_ended() -> None:
    story = scheduled(overlap=Overlap.BUFFER_ONE).after(60).when(FIRE).so
    first = schedule_of(story).job
    story = story.after(60).when(FIRE).so
    assert schedule_of(story).buffered_at == at(120)
    assert schedule_of(story).waits_for == first
    assert outcomes(story.after(60)) == [(180, RunOutcome.OVERLAP)]  # one, and no further one
    when = end_of_job(story).when(FIRE)
    run = run_of(when)
    assert (run.cause, run.due_at, run.outcome) == (
        RunCause.BUFFER,
        at(120),
        RunOutcome.SUBMITTED,
    )
    after = schedule_of(when.so)
    assert (after.buffered_at, after.waits_for, after.job) == (None, None, run.job)
    assert after.due_at == at(180)


def test_a_buffered_run_is_dropped_by_a_pause_or_another_policy() -> None:
    story = scheduled(overlap=Overlap.BUFFER_ONE).after(60).when(FIRE).so.after(60).when(FIRE).so
    for change in (
        set_schedule(overlap=Overlap.BUFFER_ONE, paused=True),
        set_schedule(overlap=Overlap.SKIP),
    ):
        assert schedule_of(story.when(change).so).buffered_at is None


# What was missed


def test_missed_times_are_caught_up_within_the_window_oldest_first() -> None:
    story = scheduled(overlap=Overlap.ALLOW_ALL, catch_up_seconds=150).after(600)
    assert outcomes(story) == [
        (60, RunOutcome.MISSED),  # and with it those up to the next one
        (480, RunOutcome.SUBMITTED),
        (540, RunOutcome.SUBMITTED),
        (600, RunOutcome.SUBMITTED),
    ]


def test_with_skip_one_job_is_caught_up() -> None:
    assert outcomes(scheduled(catch_up_seconds=150).after(600)) == [
        (60, RunOutcome.MISSED),
        (480, RunOutcome.SUBMITTED),
        (540, RunOutcome.OVERLAP),
        (600, RunOutcome.OVERLAP),
    ]


def test_a_long_absence_costs_one_event_for_all_that_was_missed() -> None:
    story = scheduled(Timing(every_seconds=1), catch_up_seconds=10).after(5_000_000)
    assert len(outcomes(story)) == 12


def test_the_end_of_the_window_is_still_inside() -> None:
    daily = Timing(every_seconds=86_400)
    story = scheduled(daily, catch_up_seconds=10)
    due_at = schedule_of(story).due_at
    assert due_at is not None
    seconds = (due_at - at(0)).total_seconds()
    assert outcomes(story.after(seconds + 10)) == [(seconds, RunOutcome.SUBMITTED)]
    [(_, missed)] = outcomes(story.after(seconds + 10.000001))
    assert missed is RunOutcome.MISSED


def test_jitter_puts_a_time_off_and_its_window_too() -> None:
    timing = Timing(every_seconds=3600, jitter_seconds=600)
    story = scheduled(timing, catch_up_seconds=10)
    schedule = schedule_of(story)
    assert schedule.due_at is not None
    assert schedule.fires_at is not None
    assert schedule.due_at < schedule.fires_at
    wait = (schedule.fires_at - at(0)).total_seconds()
    story.after(wait - 0.001).when(FIRE).then_nothing()
    assert run_of(story.after(wait + 5).when(FIRE)).outcome is RunOutcome.SUBMITTED


# Pause


def test_a_paused_schedule_has_no_due_time_and_catches_nothing_up() -> None:
    story = scheduled().when(set_schedule(paused=True)).so
    assert schedule_of(story).wakes_at is None
    story.after(600).when(FIRE).then_nothing()
    resumed = story.after(630).when(set_schedule()).so
    assert schedule_of(resumed).due_at == at(660)


def test_a_due_time_that_has_come_survives_a_change_of_something_else() -> None:
    story = scheduled().after(61).when(set_schedule(payload="2")).so
    assert outcomes(story) == [(60, RunOutcome.SUBMITTED)]
    moved = scheduled().after(61).when(set_schedule(Timing(every_seconds=600))).so
    assert outcomes(moved) == []


# Limits


def limited(submissions: int) -> Given:
    return given().when(ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=submissions)).so


def test_a_run_that_the_limits_refuse_waits_for_the_next_window() -> None:
    story = limited(1).when(set_schedule(Timing(every_seconds=30), overlap=Overlap.ALLOW_ALL)).so
    story = story.after(30).when(FIRE).so.after(29).when(FIRE).so  # used up until at(60)
    story = limited(0).when(set_schedule()).so.after(60)
    when = story.when(FIRE)
    run = run_of(when)
    assert run.outcome is RunOutcome.DEFERRED
    assert (run.next_due_at, run.fires_at) == (at(60), at(120))
    assert "limit" in str(run.reason)
    refused = [one for one in when.events if isinstance(one, RateLimitDecided)]
    assert [one.allowed for one in refused] == [False]
    when.so.after(59).when(FIRE).then_nothing()
    allowed = when.so.when(ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=9)).so.after(60)
    assert outcomes(allowed) == [(60, RunOutcome.SUBMITTED), (120, RunOutcome.OVERLAP)]


def test_a_run_that_the_limits_refuse_beyond_its_window_is_skipped() -> None:
    story = limited(0).when(set_schedule(catch_up_seconds=20)).so.after(60)
    run = run_of(story.when(FIRE))
    assert (run.outcome, run.next_due_at) == (RunOutcome.REFUSED, at(120))


def test_a_trigger_that_the_limits_refuse_is_refused() -> None:
    story = limited(0).when(set_schedule()).so
    when = story.when(TriggerSchedule(name=NAME))
    [outcome] = when.outcomes
    assert isinstance(outcome, RateLimited)
    assert [type(one) for one in when.events] == [RateLimitDecided]


# Trigger and backfill


def test_a_trigger_runs_now_and_leaves_the_next_time_alone() -> None:
    when = scheduled().after(10).when(TriggerSchedule(name=NAME))
    decided = when.answer(ScheduleDecided)
    assert decided.run is not None
    assert (decided.run.cause, decided.run.due_at) == (RunCause.TRIGGER, at(10))
    assert schedule_of(when.so).due_at == at(60)
    assert run_of(when.so.when(TriggerSchedule(name=NAME))).outcome is RunOutcome.OVERLAP


def test_a_paused_schedule_can_be_triggered() -> None:
    when = scheduled(paused=True).when(TriggerSchedule(name=NAME))
    assert run_of(when).outcome is RunOutcome.SUBMITTED
    assert schedule_of(when.so).due_at is None


def test_a_backfill_runs_each_time_of_its_span_once() -> None:
    story = scheduled(paused=True).after(600)
    begun = story.when(BackfillSchedule(name=NAME, from_at=at(120), until_at=at(300)))
    story = begun.then(
        ScheduleBackfillBegun(
            name=NAME,
            user_id=ALICE,
            kind=ECHO,
            from_at=at(120),
            until_at=at(300),
            next_due_at=at(120),
        )
    )
    assert outcomes(story) == [(s, RunOutcome.SUBMITTED) for s in (120, 180, 240)]


def test_a_backfill_goes_on_when_the_limits_allow() -> None:
    story = limited(1).when(set_schedule(paused=True)).so.after(600)
    story = story.when(BackfillSchedule(name=NAME, from_at=at(0), until_at=at(120))).so
    story = story.when(FIRE).so
    run = run_of(story.when(FIRE))
    assert (run.outcome, run.fires_at) == (RunOutcome.DEFERRED, at(660))
    assert outcomes(story.when(FIRE).so.after(60)) == [(60, RunOutcome.SUBMITTED)]


def test_a_backfill_ends_now() -> None:
    story = scheduled(overlap=Overlap.ALLOW_ALL).after(61)
    story = story.when(BackfillSchedule(name=NAME, from_at=at(0), until_at=at(9_999))).so
    causes = []
    for _ in range(3):
        run = run_of(story.when(FIRE))
        causes.append((run.cause, run.due_at))
        story = story.when(FIRE).so
    assert causes == [
        (RunCause.BACKFILL, at(0)),
        (RunCause.BACKFILL, at(60)),
        (RunCause.TIME, at(60)),
    ]


def test_backfills_that_cannot_be_are_refused() -> None:
    story = scheduled(paused=True).after(600)
    a_while = BackfillSchedule(name=NAME, from_at=at(0), until_at=at(300))
    story.when(a_while).so.when(a_while).then_refused(BackfillGoesOn)
    story.when(replace(a_while, from_at=at(601), until_at=at(900))).then_refused(NothingToBackfill)
    story.when(replace(a_while, from_at=at(-70_000))).then_refused(TooManyTimes)


# Deletion, and who may do what


def test_a_deleted_schedule_is_gone_and_its_job_is_not() -> None:
    story = scheduled().after(60).when(FIRE).so
    job = schedule_of(story).job
    story = story.when(DeleteSchedule(name=NAME)).then(
        ScheduleDeleted(name=NAME, user_id=ALICE, kind=ECHO)
    )
    assert job is not None
    assert job in story.model.jobs.rows
    story.after(600).when(FIRE).then_nothing()
    for command in (
        DeleteSchedule(name=NAME),
        TriggerSchedule(name=NAME),
        BackfillSchedule(name=NAME, from_at=at(0), until_at=at(60)),
    ):
        story.when(command).then_refused(UnknownSchedule)
    again = story.when(set_schedule()).so
    assert schedule_of(again).job is None


@pytest.mark.parametrize(
    "command",
    [set_schedule(), DeleteSchedule(name=NAME), TriggerSchedule(name=NAME)],
)
def test_a_key_without_the_right_is_refused(command: Any) -> None:
    story = given(key_created("k", Role.SUBMITTER, any_user=True)).when(set_schedule()).so
    story.when(by("k", command)).then_refused(MissingRight)


def test_a_key_that_is_for_some_users_changes_only_their_schedules() -> None:
    story = given(key_created("k", Role.OPERATOR, users=(BOB,))).when(set_schedule()).so
    story.when(by("k", set_schedule())).then_refused(NotForUser)
    story.when(by("k", set_schedule(user_id=BOB))).then_refused(NotForUser)
    story.when(by("k", DeleteSchedule(name=NAME))).then_refused(UnknownSchedule)
    story.when(by("k", TriggerSchedule(name=NAME))).then_refused(UnknownSchedule)


def test_the_events_of_a_trigger_name_its_key() -> None:
    story = given(key_created("k", Role.OPERATOR, any_user=True)).when(set_schedule(kind=SLEEP)).so
    when = story.when(by("k", TriggerSchedule(name=NAME)))
    assert {one.by for one in when.events} == {"k"}
