"""Jobs that come after others: when they are released, and what becomes of them."""

from typing import Any

import pytest

from domain.decisions.answers import JobsUpdated, Submitted
from domain.decisions.batch import CHILDREN_TOLD_PER_BATCH_MAX
from domain.jobs.job import State
from domain.language.commands import CancelJob, EnforceDeadlines, RetryJob, SubmitJob
from domain.language.errors import UnknownParent
from domain.language.events import (
    AfterFailure,
    CancelReason,
    Event,
    FailureReason,
    JobCancelled,
    JobFailed,
    JobReleased,
    JobStarted,
    JobSubmitted,
    ParentEnded,
    RateLimitDecided,
    Role,
)
from domain.language.identifiers import JobId
from tests.support.given import NOW, Given, at, given
from tests.support.keys import by, key_created
from tests.support.stories import (
    BOB,
    CAROL,
    ECHO,
    JOB,
    SLEEP,
    SUBMITTED,
    cancelled,
    claim,
    complete,
    completed,
    fail,
    failed,
    released,
    started,
    submit,
    submitted,
)

RUNS = given(SUBMITTED, started())  # job 1
CHILD = JobId(4)


def child(after: tuple[int, ...] = (1,), **details: Any) -> SubmitJob:
    """A job of another user after others; of no two payloads, so that none repeats another."""
    fields: dict[str, Any] = {"user_id": BOB, "deduplicate": False}
    return submit(after=tuple(map(JobId, after)), **(fields | details))


def waiting(**details: Any) -> Given:
    """Job 1 runs, and job 4 waits for it."""
    return RUNS.when(child(**details)).so


def told(state: Any, parent: int = 1) -> ParentEnded:
    return ParentEnded(user_id=BOB, kind=ECHO, parent=JobId(parent), state=state)


def fate(parent: int = 1) -> JobFailed:
    return JobFailed(
        user_id=BOB,
        kind=ECHO,
        attempt=0,
        reason=FailureReason.PARENT_FAILED,
        parent=JobId(parent),
    )


def test_a_job_waits_for_one_that_has_not_ended() -> None:
    story = waiting()
    job = story.job(CHILD)
    assert (job.state, job.after, job.waits_for, job.due_at) == (State.SCHEDULED, (1,), (1,), None)
    assert job.after_failure is AfterFailure.FAIL
    assert story.job(JOB).children == 1
    assert [type(one) for one in story.when(claim(9)).events] == []


def test_it_joins_the_line_with_the_end_of_the_last() -> None:
    story = waiting().when(complete()).then(completed(), told("done"), released(BOB))
    assert (story.job(CHILD).state, story.job(JOB).children) == (State.QUEUED, 0)
    assert [one.job_id for one in story.when(claim()).recorded] == [CHILD]


def test_it_may_start_in_the_batch_in_which_the_last_ends() -> None:
    events = waiting().when(complete(), claim()).events
    assert [type(one) for one in events[1:]] == [ParentEnded, JobReleased, JobStarted]


def test_it_waits_for_all() -> None:
    story = given(SUBMITTED, started(), submitted(payload=2), started()).when(child((1, 3))).so
    first = story.when(complete(1, JobId(3))).so
    assert first.recorded[-1].event == told("done", 3)
    assert first.job(6).waits_for == (1,)
    assert [type(one) for one in first.when(complete()).events[1:]] == [ParentEnded, JobReleased]


def test_those_that_have_ended_well_count_at_once() -> None:
    done = given(SUBMITTED, started(), completed())
    when = done.when(child())
    events = [type(one) for one in when.events]
    assert events == [RateLimitDecided, JobSubmitted, JobReleased]
    assert when.so.job(5).after == (1,)
    assert when.answer(Submitted).job.state is State.QUEUED
    assert when.so.job(JOB).children == 0


@pytest.mark.parametrize("ended", [failed(), cancelled()])
def test_one_that_has_failed_or_was_cancelled_says_so_at_once(ended: Event) -> None:
    history = given(SUBMITTED, started(), ended) if ended == failed() else given(SUBMITTED, ended)
    number = len(history.recorded) + 2
    for after_failure, state in [
        (AfterFailure.FAIL, State.FAILED),
        (AfterFailure.CANCEL, State.CANCELLED),
        (AfterFailure.RUN, State.QUEUED),
    ]:
        story = history.when(child(after_failure=after_failure)).so
        assert story.job(number).state is state
        expected = None if after_failure is AfterFailure.RUN else JOB
        assert story.job(number).failed_parent == expected


def test_a_failure_is_the_child_s_too() -> None:
    story = waiting().when(fail(may_retry=False)).then(failed(), told("failed"), fate())
    job = story.job(CHILD)
    assert (job.state, job.failures, job.failed_parent) == (State.FAILED, 0, JOB)


def test_a_failure_that_another_attempt_follows_is_no_end() -> None:
    events = waiting().when(fail()).events
    assert [type(one) for one in events] == [JobFailed]


def test_a_child_can_be_cancelled_with_its_parent() -> None:
    when = waiting(after_failure=AfterFailure.CANCEL).when(fail(may_retry=False))
    assert when.events[-1] == JobCancelled(
        user_id=BOB,
        kind=ECHO,
        was="scheduled",
        reason=CancelReason.PARENT_FAILED,
        parent=JOB,
    )


def test_a_child_can_run_all_the_same() -> None:
    when = waiting(after_failure=AfterFailure.RUN).when(CancelJob(job_id=JOB))
    assert when.events[1:] == [told("cancelled"), released(BOB)]


def test_the_first_failure_decides_while_others_still_run() -> None:
    story = given(SUBMITTED, started(), submitted(payload=2), started()).when(child((1, 3))).so
    story = story.when(fail(may_retry=False)).so
    assert story.job(6).state is State.FAILED
    later = story.when(complete(1, JobId(3)))
    assert later.events[1:] == [told("done", 3)]
    assert later.so.job(6).waits_for == ()


def test_a_chain_fails_to_its_end() -> None:
    story = waiting().when(child((4,), user_id=CAROL)).so
    events = story.when(fail(may_retry=False)).events
    assert [type(one) for one in events[1:]] == [ParentEnded, JobFailed] * 2
    assert events[-1].parent == CHILD  # type: ignore[union-attr]  # the type is checked above


def test_a_time_to_run_holds_it_back_longer() -> None:
    story = waiting(run_at=at(60)).when(complete()).then(completed(), told("done"))
    assert story.job(CHILD).due_at == at(60)
    late = story.after(60).when(EnforceDeadlines(jobs=[CHILD]))
    assert [type(one) for one in late.events] == [JobReleased]


def test_a_time_to_run_that_comes_while_it_waits_changes_nothing() -> None:
    story = waiting(run_at=at(10)).after(20)
    assert story.when(EnforceDeadlines(jobs=[CHILD])).events == []
    assert story.when(complete()).events[1:] == [told("done"), released(BOB)]


def test_it_expires_while_it_waits() -> None:
    story = waiting(expires_at=at(10)).after(10)
    expired = story.when(EnforceDeadlines(jobs=[CHILD])).so
    assert expired.job(CHILD).state is State.CANCELLED
    assert expired.when(complete()).events[1:] == [told("done")]


def test_it_does_not_join_the_line_after_its_expiry() -> None:
    story = waiting(expires_at=at(10)).after(15).when(complete()).then(completed(), told("done"))
    assert [type(one) for one in story.when(EnforceDeadlines(jobs=[CHILD])).events] == [
        JobCancelled
    ]


def test_a_cancelled_child_waits_again_when_it_is_retried() -> None:
    story = waiting().when(CancelJob(job_id=CHILD)).so
    retried = story.when(RetryJob(job_id=CHILD)).so
    assert (retried.job(CHILD).state, retried.job(CHILD).waits_for) == (State.SCHEDULED, (1,))
    assert retried.when(complete()).events[1:] == [told("done"), released(BOB)]


def test_a_child_that_failed_with_its_parent_runs_when_it_is_retried() -> None:
    story = waiting().when(fail(may_retry=False)).so
    retried = story.when(RetryJob(job_id=CHILD)).so
    assert retried.job(CHILD).state is State.QUEUED
    assert retried.job(CHILD).failed_parent is None


def test_a_parent_that_is_retried_does_not_bring_its_children_back() -> None:
    story = waiting().when(fail(may_retry=False)).so
    again = story.when(RetryJob(job_id=JOB)).so.followed_by()
    assert again.job(CHILD).state is State.FAILED
    started_again = again.when(claim()).so
    assert started_again.when(complete(2)).events == [completed(2)]


def test_a_job_that_does_not_exist_is_refused() -> None:
    refused = RUNS.when(child((1, 99)))
    [outcome] = refused.outcomes
    assert isinstance(outcome, UnknownParent)
    assert (outcome.job_id, "no such job" in str(outcome)) == (99, True)
    assert [type(one) for one in refused.events] == [RateLimitDecided]


def test_a_job_cannot_come_after_itself() -> None:
    [outcome] = RUNS.when(child((4,))).outcomes  # the id that it would have
    assert isinstance(outcome, UnknownParent)


def test_a_key_bound_to_users_comes_after_its_own_jobs_alone() -> None:
    key = key_created("ci", Role.SUBMITTER, users=(BOB,))
    history = given(key, SUBMITTED, submitted(BOB), submitted(BOB, SLEEP))
    [outcome] = history.when(by("ci", child((2,)))).outcomes
    assert isinstance(outcome, UnknownParent)
    assert history.when(by("ci", child((3, 4)))).so.job(6).waits_for == (3, 4)


def test_the_same_content_after_other_jobs_is_another_job() -> None:
    story = given(SUBMITTED, submitted(payload=2))
    first = story.when(submit(BOB, after=(JobId(1),)), submit(BOB, after=(JobId(2),)))
    again = first.so.when(submit(BOB, after=(JobId(2),)))
    ids = [one.job.id for one in (*first.outcomes, *again.outcomes) if isinstance(one, Submitted)]
    assert ids == [4, 6, 6]


def test_a_batch_tells_a_bounded_number_and_the_next_ones_the_rest() -> None:
    children = CHILDREN_TOLD_PER_BATCH_MAX + 7
    story = RUNS.when(*[child(payload=number) for number in range(children)]).so
    first = story.when(complete())
    assert sum(isinstance(one, ParentEnded) for one in first.events) == CHILDREN_TOLD_PER_BATCH_MAX
    parent = first.so.job(JOB)
    assert (parent.children, parent.due_at) == (7, NOW)
    rest = first.so.when(EnforceDeadlines(jobs=[JOB]))
    assert sum(isinstance(one, ParentEnded) for one in rest.events) == 7
    assert rest.answer(JobsUpdated).has_more is False
    assert rest.so.job(JOB).due_at is None


def test_no_parent_s_children_wait_behind_all_of_another() -> None:
    story = given(SUBMITTED, started(), submitted(payload=2), started())
    many = CHILDREN_TOLD_PER_BATCH_MAX + 7
    story = story.when(*[child(payload=number) for number in range(many)], child((3,))).so
    events = story.when(complete(), complete(1, JobId(3))).events
    assert told("done", 3) in events


def test_what_is_retried_before_its_children_are_told_keeps_them_waiting() -> None:
    children = CHILDREN_TOLD_PER_BATCH_MAX + 1
    story = RUNS.when(*[child(payload=number) for number in range(children)]).so
    again = story.when(fail(may_retry=False)).so.when(RetryJob(job_id=JOB))
    assert sum(isinstance(one, ParentEnded) for one in again.events) == 0
    assert (again.so.job(JOB).children, again.so.job(JOB).due_at) == (1, None)
