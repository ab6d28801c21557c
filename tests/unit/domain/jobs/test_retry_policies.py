"""A job's retry policy: which failures are followed by an attempt, and when."""

from hashlib import sha256

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.decisions.answers import JobUpdated
from domain.jobs.job import State
from domain.jobs.life_cycle import retry_delay
from domain.language.bodies import Body
from domain.language.commands import EnforceDeadlines, RecoverJobs, RetryJob
from domain.language.events import FailureReason, LimitChanged, RequeueReason, Scope
from domain.language.identifiers import JobId
from domain.language.limits import RetryPolicy, delay_range
from domain.language.policy import Policy
from tests.support.given import after, at, given
from tests.support.stories import (
    ECHO,
    JOB,
    SERVER,
    SLEEP,
    SUBMITTED,
    body,
    claim,
    complete,
    fail,
    failed,
    gave_up,
    give_back,
    released,
    requeued,
    started,
    submit,
    submitted,
)

WAKE = EnforceDeadlines(jobs=[JOB])
LINEAR = RetryPolicy(backoff="linear", base_seconds=30.0, jitter=0.0)
LOST = RequeueReason.LEASE_LOST


def error(type_name: str) -> Body:
    return body({"type": type_name, "message": "no"})


def test_a_submission_s_policy_is_stored_and_followed() -> None:
    story = given().when(submit(retry=LINEAR, max_attempts=5)).so
    job = story.job(2)
    assert (job.retry, job.attempts_granted) == (LINEAR, 5)
    first = story.followed_by(started(1)).when(fail(1, job_id=JobId(2)))
    assert first.events == [failed(1, retry_at=at(30))]
    second = started(2, lease_expires_at=at(99))
    again = first.so.after(30).followed_by(released(), second).when(fail(2, job_id=JobId(2)))
    assert again.events == [failed(2, retry_at=at(90))]


def test_what_a_submission_does_not_say_is_as_the_server_says() -> None:
    policy = Policy(retry=RetryPolicy(factor=3.0, jitter=0.0))
    said = given(policy=policy).when(submit(retry=RetryPolicy(base_seconds=10.0))).so.job(2)
    assert said.retry == RetryPolicy(base_seconds=10.0, factor=3.0, jitter=0.0)
    assert given(policy=policy).when(submit()).so.job(2).retry == policy.retry
    assert given().when(submit()).so.job(2).retry is None


def test_a_kind_s_policy_and_time_out_hold_from_then_on_where_jobs_say_nothing() -> None:
    kind = LimitChanged(
        scope=Scope.KIND,
        kind=ECHO,
        retry=RetryPolicy(attempts=9, base_seconds=60.0, never=("Rejected",)),
        timeout_seconds=5.0,
    )
    story = given(kind, policy=Policy(retry=RetryPolicy(jitter=0.0)))
    job = story.when(submit()).so.job(3)
    assert job.retry == RetryPolicy(base_seconds=60.0, jitter=0.0, never=("Rejected",))
    assert (job.attempts_granted, job.timeout_seconds) == (9, 5.0)
    own = submit(retry=RetryPolicy(base_seconds=30.0), max_attempts=4, timeout_seconds=1)
    job = story.when(own).so.job(3)
    assert job.retry == RetryPolicy(base_seconds=30.0, jitter=0.0, never=("Rejected",))
    assert (job.attempts_granted, job.timeout_seconds) == (4, 1)
    other = story.when(submit(kind=SLEEP)).so.job(3)
    assert (other.attempts_granted, other.timeout_seconds) == (3, None)
    before = given(submitted(), kind).job(1)
    assert (before.retry, before.attempts_granted, before.timeout_seconds) == (None, 3, None)


def test_another_default_changes_nothing_for_jobs_that_were_submitted_before() -> None:
    story = given(SUBMITTED, started(1))
    later = story.under(retry=RetryPolicy(base_seconds=900.0))
    assert later.when(fail()).events == story.when(fail()).events


def test_attempts_that_were_given_back_or_lost_do_not_advance_the_backoff() -> None:
    story = given(submitted(retry=LINEAR, max_attempts=9), started(1))
    given_back = story.when(give_back(begun=True)).so.followed_by(started(2))
    assert given_back.when(fail(2)).events == [failed(2, retry_at=at(30))]
    lost = story.followed_by(after(30), requeued(LOST, 1, 9), started(2, lease_expires_at=at(90)))
    assert (lost.job(1).failures, lost.job(1).errors) == (
        1,
        0,
    )  # it counts as a failure all the same
    assert lost.when(fail(2)).events == [failed(2, retry_at=at(60))]
    restarted = given(submitted(retry=LINEAR, max_attempts=9), started(1, server=SERVER))
    restarted = restarted.when(RecoverJobs(server=SERVER, jobs=[JOB])).so.followed_by(started(2))
    assert restarted.when(fail(2)).events == [failed(2, retry_at=at(30))]


def test_a_time_out_advances_the_backoff_and_a_retry_by_hand_begins_it_anew() -> None:
    job = submitted(retry=LINEAR, timeout_seconds=5, max_attempts=9)
    story = given(job, started(1), after(5)).when(WAKE)
    late = gave_up(FailureReason.TIMED_OUT, 1, retry_at=at(35), holds_place=True)
    assert story.events == [late]
    second = story.so.after(30).followed_by(released(), started(2, lease_expires_at=at(99)))
    assert second.when(fail(2)).events == [failed(2, retry_at=at(95))]
    by_hand = second.when(fail(2, may_retry=False)).so.when(RetryJob(job_id=JOB)).so
    assert by_hand.job(1).errors == 0
    third = by_hand.followed_by(started(3, lease_expires_at=at(99))).when(fail(3))
    assert third.events == [failed(3, retry_at=at(65))]


@pytest.mark.parametrize(
    ("reported", "is_final"),
    [
        (error("Rejected"), True),
        (error("RejectedLater"), False),
        (error("Gone"), True),
        (body({"type": "Rejected"}), True),
        (body({"type": 1, "message": "Rejected"}), False),
        (body("Rejected"), False),
        (body(None), False),
    ],
)
def test_no_attempt_follows_an_error_of_a_named_type(reported: Body, is_final: bool) -> None:  # noqa: FBT001 (a case)
    story = given(submitted(retry=RetryPolicy(never=("Rejected", "Gone"))), started(1))
    when = story.when(replace(fail(1), error=reported))
    state = when.answer(JobUpdated).job.state
    assert state is (State.FAILED if is_final else State.SCHEDULED)


def test_a_named_error_is_final_although_the_worker_asks_for_a_delay() -> None:
    story = given(submitted(retry=RetryPolicy(never=("Rejected",))), started(1))
    report = replace(fail(1), error=error("Rejected"), retry_in_seconds=60.0)
    assert story.when(report).answer(JobUpdated).job.state is State.FAILED


def test_an_error_without_a_type_has_the_type_error() -> None:
    story = given(submitted(retry=RetryPolicy(never=("Error",))), started(1))
    assert (
        story.when(replace(fail(1), error=body("no"))).answer(JobUpdated).job.state is State.FAILED
    )


def test_no_attempt_follows_a_time_out_or_a_loss_that_is_named() -> None:
    never = RetryPolicy(never=("TimeoutError", "LeaseLost", "ServerRestarted"))
    late = given(submitted(retry=never, timeout_seconds=5), started(1), after(5))
    late.when(WAKE).then(gave_up(FailureReason.TIMED_OUT, 1, holds_place=True))
    lost = given(submitted(retry=never), started(1), after(30))
    lost.when(WAKE).then(gave_up(FailureReason.LEASE_LOST, 1))
    dead = given(submitted(retry=never), started(1, server=SERVER))
    recovered = dead.when(RecoverJobs(server=SERVER, jobs=[JOB]))
    recovered.then(gave_up(FailureReason.SERVER_RESTARTED, 1))


def test_a_loss_that_is_named_is_final_although_no_begin_was_reported() -> None:
    """The handler may have begun, and who names the loss wants no second run."""
    story = given(submitted(retry=RetryPolicy(never=("LeaseLost",)))).when(claim(begins=0)).so
    story.after(30).when(WAKE).then(gave_up(FailureReason.LEASE_LOST, 1))


def test_a_job_with_a_policy_ends_as_any_other() -> None:
    story = given(submitted(retry=LINEAR), started(1)).when(complete(1)).so
    assert story.job(1).state is State.DONE


@for_all(
    job_id=st.integers(1, 2**62),
    attempt=st.integers(1, 10_000),
    errors=st.integers(0, 999),
    jitter=st.floats(0, 1),
)
def test_a_delay_is_drawn_within_its_bounds_and_is_the_same_each_time(
    job_id: int, attempt: int, errors: int, jitter: float
) -> None:
    policy = RetryPolicy(base_seconds=10.0, factor=1.5, jitter=jitter)
    job = replace(
        given(SUBMITTED).job(1), id=JobId(job_id), attempt=attempt, errors=errors, retry=policy
    )
    delay, (least, most) = retry_delay(job), delay_range(policy, errors)
    assert least <= delay <= most
    assert delay == retry_delay(job)
    drawn = int.from_bytes(sha256(b"%d:%d" % (job_id, attempt)).digest()[:4], "big") / 2**32
    assert delay == pytest.approx(most * (1 - jitter * (1 - drawn)))
