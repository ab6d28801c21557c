from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.decisions.answers import Submitted
from domain.language.commands import CancelJob, RetryJob
from domain.language.errors import KeyReusedWithOtherPayload, RateLimited
from domain.language.events import Event, RequeueReason, SubmissionDeduplicated
from domain.language.idempotency import content_digest, key_hash, key_of
from domain.language.identifiers import JobId, Kind, UserId
from domain.language.policy import Policy
from domain.log.log_time import Correction, by_log_time
from tests.support.given import after, at, given, of
from tests.support.stories import (
    ALICE,
    BOB,
    ECHO,
    SLEEP,
    SUBMITTED,
    admitted,
    body,
    cancelled,
    completed,
    failed,
    requeued,
    started,
    submit,
    submitted,
)

DAY = 86_400.0
DIGEST = content_digest(ECHO, body(1))
KEYED = submitted(idempotency_key="key", key_is_explicit=True)


def repeated(key: str = DIGEST, *, key_is_explicit: bool = False) -> SubmissionDeduplicated:
    return SubmissionDeduplicated(
        user_id=ALICE, kind=ECHO, idempotency_key=key, key_is_explicit=key_is_explicit
    )


def test_the_same_payload_again_is_the_first_job() -> None:
    again = given(SUBMITTED).when(submit())
    again.then(of(1, admitted(used=0, count=0)), of(1, repeated()))
    answer = again.answer(Submitted)
    assert (answer.is_duplicate, answer.job.id) == (True, 1)


def test_the_same_key_again_is_the_first_job() -> None:
    story = given().when(submit(idempotency_key="key")).then(of(2, admitted()), of(2, KEYED))
    story.when(submit(idempotency_key="key")).then(
        of(2, admitted(count=0)), of(2, repeated("key", key_is_explicit=True))
    )


def test_equal_values_are_the_same_payload_however_they_were_written() -> None:
    story = given().when(submit(payload={"a": 1, "b": [2, {"x": 1, "y": 2}]})).so
    again = story.when(submit(payload={"b": [2, {"y": 2, "x": 1}], "a": 1}))
    assert again.answer(Submitted).is_duplicate


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 1.0),
        (1, True),
        (0, None),
        (0, False),
        ("1", 1),
        ([], {}),
        ([1, 2], [2, 1]),
        ("\u00e9", "e\u0301"),  # both are é
    ],
)
def test_values_that_json_tells_apart_are_other_payloads(first: object, second: object) -> None:
    story = given().when(submit(payload=first)).so
    assert not story.when(submit(payload=second)).answer(Submitted).is_duplicate


def test_a_reused_key_with_another_payload_is_refused_and_only_the_decision_recorded() -> None:
    when = given(KEYED).when(submit(payload=2, idempotency_key="key"))
    refusal = when.then_refused(KeyReusedWithOtherPayload, admitted())
    assert refusal.job_id == 1
    assert str(refusal) == (
        "The idempotency key 'key' already belongs to job 1, with another kind or payload; "
        "use a new key for a new job."
    )


def test_a_reused_key_with_another_kind_is_refused() -> None:
    when = given(KEYED).when(submit(kind=SLEEP, idempotency_key="key"))
    when.then_refused(KeyReusedWithOtherPayload, admitted())


def test_with_a_key_of_the_clients_own_what_is_not_the_payload_may_differ() -> None:
    given(KEYED).when(submit(idempotency_key="key", priority=5, run_at=at(9), max_attempts=9)).then(
        admitted(used=0, count=0), repeated("key", key_is_explicit=True)
    )


OPTIONS: list[dict[str, Any]] = [
    {"run_at": at(60)},
    {"run_at": at(61)},
    {"expires_at": at(60)},
    {"timeout_seconds": 5.0},
    {"max_attempts": 3},
    {"priority": 1},
    {"priority": -1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_digest_covers_all_that_makes_a_job_different(options: dict[str, Any]) -> None:
    story = given().when(submit(), *(submit(**one) for one in OPTIONS)).so
    jobs = {job.idempotency_key: job.id for job in story.model.jobs.rows.values()}
    assert len(jobs) == 1 + len(OPTIONS)
    again = story.when(submit(**options)).answer(Submitted)
    assert again.is_duplicate
    assert again.job.id == 4 + 2 * OPTIONS.index(options)


def test_a_repeat_uses_nothing_up_but_the_limit_is_looked_at_first() -> None:
    story = given(policy=Policy(user_limit=2)).when(*[submit()] * 5).so
    new = story.when(submit(payload=2))
    assert not new.answer(Submitted).is_duplicate
    new.so.when(submit()).then_refused(
        RateLimited, admitted(used=2, limit=2, allowed=False, global_used=None, global_limit=None)
    )


def test_a_repeat_of_earlier_releases_used_up_a_submission_and_still_did() -> None:
    story = given(policy=Policy(user_limit=2)).when(submit()).so
    story = story.followed_by(of(2, admitted(used=2, limit=2)), of(2, repeated()))
    assert isinstance(story.when(submit(payload=2)).outcomes[0], RateLimited)


@pytest.mark.parametrize(
    "ending",
    [(cancelled(),), (started(), failed())],
    ids=["cancelled", "failed"],
)
def test_a_digest_does_not_mean_a_job_that_failed_or_was_cancelled(
    ending: tuple[Event, ...],
) -> None:
    story = given().when(submit()).so.followed_by(*(of(2, event) for event in ending))
    again = story.when(submit())
    assert not again.answer(Submitted).is_duplicate
    newer = again.answer(Submitted).job.id
    repeat = again.so.when(submit()).answer(Submitted)
    assert (repeat.is_duplicate, repeat.job.id) == (True, newer)


def test_a_digest_means_a_done_job() -> None:
    story = given(SUBMITTED, started(), completed())
    assert story.when(submit()).answer(Submitted).job.id == 1


def test_without_deduplication_each_submission_is_a_job_that_no_other_is_taken_for() -> None:
    story = given().when(submit()).so
    one = story.when(submit(deduplicate=False))
    two = one.so.when(submit(deduplicate=False))
    jobs = [answer.answer(Submitted) for answer in (one, two)]
    assert [job.is_duplicate for job in jobs] == [False, False]
    assert len({DIGEST, *(job.job.idempotency_key for job in jobs)}) == 3
    assert two.so.when(submit()).answer(Submitted).job.id == 2


def test_a_server_may_deduplicate_only_what_asks_for_it() -> None:
    story = given(policy=Policy(deduplicate=False)).when(submit(deduplicate=True)).so
    assert not story.when(submit()).answer(Submitted).is_duplicate
    assert story.when(submit(deduplicate=True)).answer(Submitted).is_duplicate
    keyed = story.when(submit(idempotency_key="key")).so
    assert keyed.when(submit(idempotency_key="key")).answer(Submitted).is_duplicate


def test_a_repeat_is_known_although_the_logs_time_differs_from_the_clock() -> None:
    shifted = by_log_time(submit(run_at=at(60)), Correction(1, offset=3_600_000_000))
    later = by_log_time(submit(run_at=at(60)), Correction())
    assert shifted.run_at != later.run_at
    assert key_of(shifted) == key_of(later) == key_of(submit(run_at=at(60)))


def test_keys_belong_to_their_user() -> None:
    story = given(KEYED)
    other = story.when(submit(BOB, payload=2, idempotency_key="key"))
    assert not other.answer(Submitted).is_duplicate
    same_payload = given(SUBMITTED).when(submit(BOB))
    assert not same_payload.answer(Submitted).is_duplicate


@pytest.mark.parametrize("user_id", ["Alice", "alice ", " alice", "alicE"])
def test_users_who_look_alike_have_keys_of_their_own(user_id: str) -> None:
    story = given(SUBMITTED)
    assert not story.when(submit(UserId(user_id))).answer(Submitted).is_duplicate


@pytest.mark.parametrize("key", ["Key", "key ", " key", "k\u00e9y", "ke"])
def test_keys_that_look_alike_are_other_keys(key: str) -> None:
    when = given(KEYED).when(submit(idempotency_key=key))
    assert not when.answer(Submitted).is_duplicate


def test_nobody_hits_a_digest_by_sending_it_as_a_key() -> None:
    explicit = given(SUBMITTED).when(submit(payload=2, idempotency_key=DIGEST))
    explicit.then(admitted(), submitted(payload=2, idempotency_key=DIGEST, key_is_explicit=True))
    again = explicit.so.when(submit(payload=1))
    assert again.answer(Submitted).job.id == 1


@pytest.mark.parametrize("key", [None, "key"])
def test_a_key_lives_to_the_microsecond_and_then_means_a_new_job(key: str | None) -> None:
    story = given().when(submit(idempotency_key=key)).so
    story = story.followed_by(of(2, started()), of(2, completed()))
    last = story.after(DAY - 0.000001).when(submit(idempotency_key=key))
    assert last.answer(Submitted).is_duplicate
    new = story.after(DAY).when(submit(idempotency_key=key))
    assert not new.answer(Submitted).is_duplicate
    assert new.answer(Submitted).job.id == 6
    repeat = new.so.after(1).when(submit(idempotency_key=key))
    assert repeat.answer(Submitted).job.id == 6
    assert [job.id for job in repeat.so.model.jobs.rows.values() if job.holds_key] == [6]


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize(
    "going_on",
    [
        (),
        (started(),),
        (started(), failed(retry_at=at(DAY))),
        (started(), requeued(RequeueReason.LEASE_LOST)),
        (cancelled(), requeued(RequeueReason.RETRIED, 0, was_cancelled=True)),
        (started(), failed(), requeued(RequeueReason.RETRIED, 1, 4)),
    ],
    ids=[
        "waiting",
        "running",
        "to be retried",
        "queued again",
        "cancelled, again",
        "failed, again",
    ],
)
def test_a_key_holds_at_least_until_its_job_has_ended(
    key: str | None, going_on: tuple[Event, ...]
) -> None:
    story = given(policy=Policy(idempotency_seconds=4)).when(submit(idempotency_key=key)).so
    story = story.followed_by(*(of(2, event) for event in going_on))
    again = story.after(6).when(submit(idempotency_key=key)).answer(Submitted)
    assert (again.job.id, again.is_duplicate) == (2, True)
    ended = story.after(6).followed_by(of(2, cancelled()))
    assert not ended.when(submit(idempotency_key=key)).answer(Submitted).is_duplicate


def test_a_scheduled_job_keeps_its_key_beyond_the_time_that_was_promised() -> None:
    story = given(policy=Policy(idempotency_seconds=4)).when(
        submit(idempotency_key="key", run_at=at(14))
    )
    again = story.so.after(6).when(submit(idempotency_key="key", run_at=at(14)))
    assert again.answer(Submitted).is_duplicate


def test_an_expired_key_may_come_with_another_payload() -> None:
    story = given(KEYED, cancelled()).after(DAY)
    assert not story.when(submit(payload=2, idempotency_key="key")).answer(Submitted).is_duplicate


def test_a_repeat_does_not_lengthen_the_life_of_a_key() -> None:
    story = given(SUBMITTED, started(), completed(), after(DAY - 1)).when(submit()).so
    assert not story.after(1).when(submit()).answer(Submitted).is_duplicate


def test_the_life_of_a_key_is_in_the_event_and_no_later_policy_changes_it() -> None:
    story = given(policy=Policy(idempotency_seconds=10)).when(submit()).so
    story = story.followed_by(of(2, started()), of(2, completed()))
    assert (
        not story.after(10)
        .under(idempotency_seconds=1000)
        .when(submit())
        .answer(Submitted)
        .is_duplicate
    )
    assert story.after(9).under(idempotency_seconds=1).when(submit()).answer(Submitted).is_duplicate


@pytest.mark.parametrize(
    "ending",
    [(started(), completed()), (started(), failed()), (cancelled(),), (started(),)],
    ids=["done", "failed", "cancelled", "running"],
)
def test_a_key_means_its_job_whatever_became_of_it(ending: tuple[object, ...]) -> None:
    story = given(KEYED, *ending)  # type: ignore[arg-type]  # events, of several types
    again = story.when(submit(idempotency_key="key")).answer(Submitted)
    assert (again.is_duplicate, again.job.id) == (True, 1)


def test_a_retry_keeps_the_key() -> None:
    story = given(KEYED).when(CancelJob(job_id=JobId(1))).so.when(RetryJob(job_id=JobId(1))).so
    assert story.when(submit(idempotency_key="key")).answer(Submitted).job.id == 1


def test_two_hundred_at_once_with_one_key_are_one_job() -> None:
    when = given().when(*[submit(idempotency_key="key")] * 200)
    answers = [outcome for outcome in when.outcomes if isinstance(outcome, Submitted)]
    assert [answer.job.id for answer in answers] == [2] * 200
    assert [answer.is_duplicate for answer in answers] == [False] + [True] * 199
    assert when.events[:2] == [admitted(), KEYED]
    assert when.events[2:] == [
        event
        for _ in range(199)
        for event in (admitted(count=0), repeated("key", key_is_explicit=True))
    ]


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)


@for_all(one=st.tuples(NAMES, NAMES, st.booleans()), other=st.tuples(NAMES, NAMES, st.booleans()))
def test_no_two_keys_have_the_same_hash(
    one: tuple[str, str, bool], other: tuple[str, str, bool]
) -> None:
    hashes = [key_hash(UserId(who), key, is_explicit=mine) for who, key, mine in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)


def test_the_border_between_user_and_key_is_part_of_the_hash() -> None:
    assert key_hash(UserId("ab"), "c", is_explicit=True) != key_hash(
        UserId("a"), "bc", is_explicit=True
    )


def test_the_digest_tells_kinds_apart() -> None:
    assert content_digest(Kind("a"), body(1)) != content_digest(Kind("b"), body(1))
    assert content_digest(ECHO, body(1)) == (
        "736db77f1115f76b015971a477d37712cdcd993786313dc4769aee1a74a22170"
    )
