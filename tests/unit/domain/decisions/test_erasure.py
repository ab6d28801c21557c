"""Erasure: the bodies that may be erased, and what remains of the job."""

import pytest
from msgspec.structs import replace

from domain.audit.legality import illegality
from domain.decisions.answers import JobUpdated
from domain.language.commands import CancelJob, EraseBodies, RetryJob
from domain.language.errors import BodiesAreNeeded, JobHasMovedOn, JobWasErased, Refusal, UnknownJob
from domain.language.events import BodiesErased
from domain.language.idempotency import content_digest
from tests.support.given import Given, given
from tests.support.stories import (
    ALICE,
    ECHO,
    JOB,
    SUBMITTED,
    body,
    cancelled,
    completed,
    failed,
    started,
    submit,
    submitted,
)

DONE = given(SUBMITTED, started(), completed())
ERASED = BodiesErased(user_id=ALICE, kind=ECHO, positions=(1, 3))


def erase(attempt: int = 1, *positions: int) -> EraseBodies:
    return EraseBodies(job_id=JOB, attempt=attempt, positions=positions or (1, 3))


@pytest.mark.parametrize(
    "ended", [DONE, given(SUBMITTED, started(), failed()), given(SUBMITTED, started(), cancelled())]
)
def test_of_an_ended_job_once(ended: Given) -> None:
    when = ended.after(5).when(erase())
    erased = when.then(ERASED)
    assert when.answer(JobUpdated).job.erased_at == erased.now
    assert erased.job(1).state is ended.job(1).state
    erased.when(erase()).then_nothing()


@pytest.mark.parametrize(
    ("history", "rule"),
    [
        (given(SUBMITTED), BodiesAreNeeded),
        (given(SUBMITTED, started()), BodiesAreNeeded),
        (given(submitted(run_at=given().after(9).now)), BodiesAreNeeded),
        (given(), UnknownJob),
    ],
)
def test_not_of_one_that_needs_them(history: Given, rule: type[Refusal]) -> None:
    history.when(erase(0)).then_refused(rule)


def test_not_by_what_was_known_of_an_earlier_attempt() -> None:
    DONE.when(erase(0)).then_refused(JobHasMovedOn)


@pytest.mark.parametrize("positions", [(1,), (3,), ()])
def test_not_without_a_body_that_came_since_they_were_looked_up(positions: tuple[int, ...]) -> None:
    when = DONE.when(replace(erase(), positions=positions))
    when.then_refused(JobHasMovedOn)


def test_a_job_without_its_payload_is_not_started_again() -> None:
    ended = given(SUBMITTED, cancelled()).when(erase(0, 1)).so
    ended.when(RetryJob(job_id=JOB)).then_refused(JobWasErased)
    ended.when(CancelJob(job_id=JOB)).then_nothing()


def test_its_key_still_stands_for_it() -> None:
    ended = DONE.when(erase()).so
    again = ended.when(submit())
    assert [type(event).__name__ for event in again.events] == [
        "RateLimitDecided",
        "SubmissionDeduplicated",
    ]
    assert ended.job(1).idempotency_key == content_digest(ECHO, body())


def test_the_positions_go_with_the_event() -> None:
    [fact] = DONE.when(erase()).recorded
    assert isinstance(fact.event, BodiesErased)
    assert fact.job_id == JOB


def test_what_no_rule_decides_is_told() -> None:
    def says(history: Given, event: BodiesErased = ERASED) -> str | None:
        before = history.model.jobs.rows.get(JOB)
        return illegality(before, history.followed_by(event).recorded[-1])

    assert says(DONE) is None
    assert says(DONE.followed_by(ERASED)) == "job 1 had been erased already"
    assert says(given(SUBMITTED)) == "job 1 was queued and needed its payload"
    assert says(DONE, replace(ERASED, positions=(1,))) == "it does not erase all of job 1"
    assert says(DONE, replace(ERASED, positions=(3,))) == "it does not erase all of job 1"
