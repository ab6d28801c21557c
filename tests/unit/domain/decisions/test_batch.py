from collections.abc import Sequence
from datetime import datetime

import pytest
from msgspec.structs import replace

import domain.decisions.batch
from domain.decisions.answers import Claimed, JobUpdated, Submitted
from domain.decisions.batch import EVENTS_PER_APPEND, STREAMED_JOBS_MIN, Batch
from domain.decisions.decide import decide
from domain.decisions.decision import Decision
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import KnownLine
from domain.jobs.job import State
from domain.language.bodies import body_of
from domain.language.commands import (
    CancelJob,
    ChangeLimit,
    Command,
    EnforceDeadlines,
    SubmitJob,
)
from domain.language.errors import (
    JobHasEnded,
    NotTheCurrentAttempt,
    RateLimited,
    TooManyKinds,
    UnknownJob,
)
from domain.language.events import (
    CancelReason,
    Event,
    JobFailed,
    RateLimitDecided,
    Recorded,
    Scope,
    type_of,
)
from domain.language.identifiers import JobId, Kind
from domain.language.policy import Policy
from tests.support.given import NOW, POLICY, after, at, given, of
from tests.support.stories import (
    ALICE,
    BOB,
    ERROR,
    JOB,
    RESULT,
    SUBMITTED,
    admitted,
    body,
    cancelled,
    claim,
    complete,
    completed,
    fail,
    failed,
    refusals,
    started,
    submit,
    submitted,
)

EXPIRED = CancelReason.EXPIRED


def test_claims_are_decided_after_everything_else_of_their_batch() -> None:
    when = given().when(claim(2), submit(), claim(1), submit(BOB))
    assert when.events == [
        admitted(),
        submitted(),
        admitted(BOB, global_used=2),
        submitted(BOB),
        started(),
        started(user_id=BOB),
    ]
    assert [type(outcome) for outcome in when.outcomes] == [Claimed, Submitted, Claimed, Submitted]
    first, _, second, _ = when.outcomes
    assert isinstance(first, Claimed)
    assert [job.id for job in first.jobs] == [2, 4]
    assert second == Claimed([])


def test_claims_of_one_batch_are_served_in_the_order_in_which_they_came() -> None:
    story = given(*[submitted(payload=n) for n in range(3)])
    outcomes = story.when(claim(2), claim(2)).outcomes
    assert [[job.id for job in one.jobs] for one in outcomes if isinstance(one, Claimed)] == [
        [1, 2],
        [3],
    ]


def test_the_answers_come_in_the_order_of_the_commands() -> None:
    when = given(SUBMITTED, started()).when(
        complete(9), claim(1), complete(1), CancelJob(job_id=JobId(77)), complete(1)
    )
    assert [type(outcome) for outcome in when.outcomes] == [
        NotTheCurrentAttempt,
        Claimed,
        JobUpdated,
        UnknownJob,
        JobUpdated,
    ]


def test_an_answer_shows_the_state_behind_the_whole_batch() -> None:
    when = given().when(submit(), claim(1), CancelJob(job_id=JobId(2)), submit(BOB))
    submission = when.outcomes[0]
    assert isinstance(submission, Submitted)
    assert submission.job.state is State.CANCELLED


def test_all_of_a_batch_are_recorded_at_one_time_in_places_that_follow_each_other() -> None:
    story = given(SUBMITTED, started(), after(3.000001))
    when = story.when(complete(), submit(BOB), claim(5))
    assert [one.position for one in when.recorded] == [3, 4, 5, 6]
    assert {one.recorded_at for one in when.recorded} == {at(3.000001)}


def test_a_refused_command_leaves_its_neighbours_alone() -> None:
    when = given(SUBMITTED, started()).when(fail(7), complete(1), fail(1), CancelJob(job_id=JOB))
    assert when.events == [completed()]
    assert [type(outcome) for outcome in when.outcomes] == [
        NotTheCurrentAttempt,
        JobUpdated,
        NotTheCurrentAttempt,
        JobHasEnded,
    ]


def test_bodies_are_at_the_positions_of_their_events() -> None:
    model = given(SUBMITTED, started(), submitted(BOB), started(user_id=BOB)).model
    batch = Batch(model, POLICY, NOW)
    commands: list[Command] = [
        submit(payload="p"),
        complete(1),
        fail(1, job_id=JobId(3)),
        submit(payload="p"),
    ]
    batch.decide_all(commands, _unexpected)
    places = {one.position: one.event for one in batch.recorded}
    assert batch.bodies == [(6, b'"p"'), (7, RESULT.data), (8, ERROR.data)]
    assert places[6] == submitted(payload="p")
    assert places[7] == completed()
    last = places[8]
    assert isinstance(last, JobFailed)
    assert last == failed(user_id=BOB, retry_at=last.retry_at)


# The commands, and whether parts are asked for.
@pytest.mark.parametrize(
    ("commands", "is_streamed", "parts_expected"),
    [
        (STREAMED_JOBS_MIN, True, 2 * STREAMED_JOBS_MIN // EVENTS_PER_APPEND),
        (STREAMED_JOBS_MIN, False, 1),
        (STREAMED_JOBS_MIN - 1, True, 1),
    ],
)
def test_events_of_large_batches_are_handed_over_while_later_commands_are_decided(
    commands: int,
    is_streamed: bool,  # noqa: FBT001 (a parameter of pytest)
    parts_expected: int,
) -> None:
    parts: list[tuple[list[int], list[int], int]] = []

    def append(recorded: Sequence[Recorded], bodies: Sequence[tuple[int, bytes]]) -> None:
        positions = [one.position for one in recorded]
        parts.append((positions, [position for position, _ in bodies], model.position))

    model = WriteModel(KnownLine())
    policy = replace(POLICY, user_limit=commands, global_limit=commands)
    batch = Batch(model, policy, NOW, append=append, is_streamed=is_streamed)
    batch.decide_all([submit(payload=number) for number in range(commands)], _unexpected)
    assert len(parts) == parts_expected, "a decision and a submission each"
    came_at = EVENTS_PER_APPEND if parts_expected > 1 else 2 * commands
    assert parts[0][2] == came_at, "the first part came in mid-batch, if it was to"
    positions = [position for of_part, _, _ in parts for position in of_part]
    assert positions == [one.position for one in batch.recorded]
    bodies = [position for _, of_part, _ in parts for position in of_part]
    assert bodies == [position for position, _ in batch.bodies]


def _unexpected(command: Command, error: Exception) -> None:
    raise AssertionError(command) from error


def test_a_decision_that_fails_by_our_fault_spoils_no_neighbour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decide_or_crash(
        model: WriteModel, command: Command, policy: Policy, now: datetime
    ) -> Decision:
        if isinstance(command, SubmitJob) and command.user_id == BOB:
            raise ZeroDivisionError
        return decide(model, command, policy, now)

    monkeypatch.setattr(domain.decisions.batch, "decide", decide_or_crash)
    model = WriteModel(KnownLine())
    crashes: list[Command] = []
    batch = Batch(model, POLICY, NOW)
    commands: list[Command] = [submit(payload=1), submit(BOB), submit(payload=2), claim(1)]
    outcomes = batch.decide_all(commands, lambda command, _: crashes.append(command))
    assert [type(outcome) for outcome in outcomes] == [
        Submitted,
        ZeroDivisionError,
        Submitted,
        Claimed,
    ]
    assert crashes == [commands[1]]
    assert [one.event for one in batch.recorded][:4] == [
        admitted(),
        submitted(payload=1),
        admitted(used=2),
        submitted(payload=2),
    ]


def test_refusals_stand_behind_everything_else_even_behind_claims() -> None:
    story = given(policy=Policy(user_limit=1))
    when = story.when(submit(payload=1), submit(payload=2), claim(1), submit(payload=3))
    assert [type(one.event).__name__ for one in when.recorded] == [
        "RateLimitDecided",
        "JobSubmitted",
        "JobStarted",
        "RateLimitDecided",
    ]
    last = when.events[-1]
    assert isinstance(last, RateLimitDecided)
    assert (last.allowed, last.count, last.used, last.limit) == (False, 2, 1, 1)
    assert [type(outcome) for outcome in when.outcomes] == [
        Submitted,
        RateLimited,
        Claimed,
        RateLimited,
    ]


def test_a_refusal_stands_before_a_limit_that_was_raised_behind_it() -> None:
    """A reader in the order of the log never sees a refusal while capacity was left."""
    story = given(policy=Policy(user_limit=1)).when(submit(payload=1)).so
    raised = ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=2)
    when = story.when(
        submit(payload=2), submit(payload=3), raised, submit(payload=4), submit(payload=5)
    )
    assert [_in_short(event) for event in when.events] == [
        "2 refused at 1 of 1",
        "LimitChanged",
        "admitted as 2 of 2",
        "JobSubmitted",
        "1 refused at 2 of 2",
    ]


def test_what_was_refused_at_the_door_stands_before_other_limits() -> None:
    raised = ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=2)
    report = refusals(7)
    when = given().when(raised, submit(), report)
    assert [_in_short(event) for event in when.events] == [
        "7 refused at 1 of 1",
        "LimitChanged",
        "admitted as 1 of 2",
        "JobSubmitted",
    ]


def _in_short(event: Event) -> str:
    match event:
        case RateLimitDecided(allowed=True):
            return f"admitted as {event.used} of {event.limit}"
        case RateLimitDecided():
            return f"{event.count} refused at {event.used} of {event.limit}"
        case _:
            return type_of(event)


def test_an_empty_batch_is_nothing() -> None:
    given(SUBMITTED).when().then_nothing()


def test_what_expired_is_recorded_before_the_first_claim_and_once() -> None:
    story = given(submitted(expires_at=at(5)), submitted(payload=2), after(5))
    when = story.when(claim(1), claim(1))
    assert when.events == [
        cancelled("queued", reason=EXPIRED),
        started(lease_expires_at=at(35)),
    ]


def test_what_arrives_expired_is_never_started() -> None:
    when = given().after(5).when(submit(expires_at=at(5)), claim(1))
    assert when.events[2:] == [cancelled("queued", reason=EXPIRED)]


def test_without_a_claim_expiry_waits_for_the_clock_to_be_looked_at() -> None:
    story = given(submitted(expires_at=at(5)), after(9)).when(submit(BOB)).so
    assert story.job(1).state is State.QUEUED
    story.when(EnforceDeadlines(jobs=[JOB])).then(of(1, cancelled("queued", reason=EXPIRED)))


def test_a_user_may_have_jobs_of_so_many_kinds_waiting_and_no_more() -> None:
    kinds = [Kind(f"kind-{number}") for number in range(3)]
    story = given(policy=Policy(kinds_waiting_max=2)).when(submit(kind=kinds[0])).so
    story = story.when(submit(kind=kinds[1])).so
    story.when(submit(kind=kinds[2])).then_refused(TooManyKinds, admitted(used=3))
    assert isinstance(story.when(submit(kind=kinds[0], payload=2)).outcomes[0], Submitted)
    assert isinstance(story.when(submit(BOB, kind=kinds[2])).outcomes[0], Submitted)
    served = story.when(claim(1)).so
    assert isinstance(served.when(submit(kind=kinds[2])).outcomes[0], Submitted)


def test_a_command_without_a_body_has_none_stored() -> None:
    model = given(SUBMITTED, started()).model
    batch = Batch(model, POLICY, NOW)
    batch.decide_all([complete(1, result=None)], _unexpected)
    assert batch.bodies == []
    assert [one.event for one in batch.recorded] == [completed(result=None)]


def test_a_body_of_null_is_stored_as_any_other() -> None:
    null = body_of(None, "result")
    when = given(SUBMITTED, started()).when(complete(1, result=null))
    when.then(completed(result=null))
    assert null == body(None)
    assert (ALICE, null.size) == ("alice", 4)


def test_a_claim_starts_no_more_jobs_than_one_answer_can_carry() -> None:
    sizes = [len(body("x" * 98).data)] * 3
    when = given().when(
        *(submit(payload="x" * 98, idempotency_key=str(number)) for number in range(3)),
        claim(3, payload_bytes_max=sizes[0] * 2),
        claim(3, payload_bytes_max=sizes[0] - 1),
    )
    assert when.events[-3:] == [started(), started(), started()]
    *_, first, second = when.outcomes
    assert isinstance(first, Claimed)
    assert isinstance(second, Claimed)
    assert [job.id for job in first.jobs] == [2, 4]
    assert [job.id for job in second.jobs] == [6]
