"""API keys: which are valid, what they may do, and what is recorded of who did it."""

from typing import Any

import pytest

from domain.access.decisions import _NEEDED, decide
from domain.access.keys import KEYS_MAX, SECRETS_MAX, ApiKeys
from domain.access.rights import RIGHTS, Right
from domain.decisions.answers import Claimed, LeasesHeld
from domain.language.commands import (
    AcceptLoss,
    ArchiveSegments,
    BeginArchive,
    CancelJob,
    ChangeLimit,
    Command,
    CompleteArchive,
    EnforceDeadlines,
    EraseArchivedBodies,
    EraseBodies,
    ExtendLeases,
    FireSchedule,
    RecoverJobs,
    ReportRefusals,
    ReportWrongKeys,
    RetryJob,
    ReturnJob,
    RewriteSegment,
    SaveProjections,
    TakeOutbox,
    UpdateLine,
)
from domain.language.errors import (
    BeyondBounds,
    KeyExists,
    KeyHasEnded,
    KeyNotValid,
    KeyReusedWithOtherPayload,
    MissingRight,
    NotForKind,
    NotForUser,
    NotTheCurrentAttempt,
    TooManyKeys,
    TooManySecrets,
    UnknownJob,
    UnknownKey,
)
from domain.language.events import JobCompleted, Recorded, Role, Scope
from domain.language.identifiers import JobId, UserId
from tests.support.given import NOW, Given, after, at, given
from tests.support.keys import (
    by,
    caller,
    create_key,
    key_created,
    key_revoked,
    key_rotated,
    revoke_key,
    rotate_key,
    secret,
)
from tests.support.stories import (
    ALICE,
    BOB,
    ECHO,
    SLEEP,
    WORKER,
    admitted,
    claim,
    complete,
    fail,
    give_back,
    refusals,
    started,
    submit,
    submitted,
)

CI = key_created("ci", users=(ALICE,))
ROOT = key_created("root", Role.ADMIN)
W1, W2 = key_created("w1", Role.WORKER), key_created("w2", Role.WORKER)
OPS = key_created("ops", Role.OPERATOR)
JOB = JobId(4)  # the first one behind three keys
HELD = given(W1, W2, OPS, submitted(), started(by=W1.name))


def test_a_key_is_created_rotated_and_revoked_by_events() -> None:
    history = given().when(create_key("ci", users=(ALICE,))).then(CI)
    history = history.when(rotate_key("ci", "second", 10.0)).then(key_rotated("ci", "second", 10))
    history = history.when(revoke_key("ci")).then(key_revoked("ci"))
    history.when(revoke_key("ci")).then_nothing()


def test_a_name_is_never_used_again() -> None:
    given(CI).when(create_key("ci", Role.ADMIN)).then_refused(KeyExists)
    given(CI, key_revoked("ci")).when(create_key("ci", Role.ADMIN)).then_refused(KeyExists)


def test_what_is_not_there_or_has_ended_is_not_rotated() -> None:
    given().when(rotate_key("ci", "second")).then_refused(UnknownKey)
    given().when(revoke_key("ci")).then_refused(UnknownKey)
    given(CI, key_revoked("ci")).when(rotate_key("ci", "second")).then_refused(KeyHasEnded)
    expired = given(key_created("ci", users=(ALICE,), expires_at=at(10)), after(10))
    expired.when(rotate_key("ci", "second")).then_refused(KeyHasEnded)


def test_the_number_of_secrets_of_a_key_is_bounded() -> None:
    history = given(CI)
    for number in range(SECRETS_MAX - 1):
        history = history.when(rotate_key("ci", f"secret {number}")).so
    history.when(rotate_key("ci", "one more")).then_refused(TooManySecrets)
    later = history.after(60)
    later.when(rotate_key("ci", "one more", 0.0)).then(key_rotated("ci", "one more", 60))


def test_the_number_of_keys_is_bounded() -> None:
    keys = ApiKeys()
    for number in range(1, KEYS_MAX + 1):
        if number == KEYS_MAX:
            assert decide(keys, create_key("the-last", Role.ADMIN), NOW)
        keys.evolve(Recorded(number, NOW, None, key_created(f"key-{number}", Role.READER)))
    with pytest.raises(TooManyKeys, match="There are 10,000 keys"):
        decide(keys, create_key("one-more", Role.ADMIN), NOW)
    assert keys.recognize(secret("key-5000"), NOW) is not None


def test_a_secret_is_recognized_while_its_key_holds() -> None:
    keys = given(key_created("ci", users=(ALICE,), expires_at=at(100))).model.keys
    found = keys.recognize(secret("ci"), at(99.999999))
    assert found is not None
    assert found[1] == caller("ci")
    assert keys.recognize(secret("ci"), at(100)) is None
    assert keys.recognize(secret("other"), NOW) is None
    assert keys.recognize("fl_x", NOW) is None
    revoked = given(CI, key_revoked("ci")).model.keys
    assert revoked.recognize(secret("ci"), NOW) is None


def test_two_secrets_hold_during_the_overlap_and_one_after_it() -> None:
    keys = given(CI).when(rotate_key("ci", "second", 10.0)).so.model.keys
    assert keys.recognize(secret("ci"), at(9)) is not None
    assert keys.recognize(secret("ci"), at(10)) is None
    assert keys.recognize(secret("second"), at(9)) is not None
    assert keys.recognize(secret("second"), at(10)) is not None


def test_a_later_rotation_never_makes_an_earlier_secret_hold_longer() -> None:
    history = given(CI).when(rotate_key("ci", "second", 1.0)).so
    keys = history.when(rotate_key("ci", "third", 60.0)).so.model.keys
    assert keys.recognize(secret("ci"), at(2)) is None
    assert keys.recognize(secret("second"), at(2)) is not None


def test_a_copy_is_folded_on_its_own() -> None:
    keys = given(CI).model.keys
    copied = keys.copy()
    copied.evolve(Recorded(2, NOW, None, key_revoked("ci")))
    assert keys.valid(caller("ci"), NOW) is not None
    assert copied.valid(caller("ci"), NOW) is None


@pytest.mark.parametrize(
    "history",
    [
        given(),
        given(CI, key_revoked("ci")),
        given(key_created("ci", users=(ALICE,), expires_at=at(10)), after(10)),
        given(CI, key_rotated("ci", "second", 5), after(5)),
    ],
    ids=["unknown", "revoked", "expired", "rotated away"],
)
def test_a_command_of_a_key_that_does_not_hold_is_refused(history: Given) -> None:
    history.when(by("ci", submit())).then_refused(KeyNotValid)


def test_a_revocation_holds_for_what_is_decided_after_it_in_the_same_batch() -> None:
    found = given(CI).when(revoke_key("ci"), by("ci", submit()))
    assert [type(outcome) for outcome in found.outcomes][1] is KeyNotValid
    assert found.events == [key_revoked("ci")]


def test_what_a_caller_causes_says_who_caused_it() -> None:
    given(CI).when(by("ci", submit())).then(admitted(by=CI.name), submitted(by=CI.name))


def test_refusals_of_two_keys_are_not_put_together() -> None:
    two = given(CI, key_created("cd", users=(ALICE,))).under(user_limit=1)
    two = two.when(submit()).so
    found = two.when(by("ci", submit(payload=2)), by("cd", submit(payload=3)))
    assert [event.by for event in found.events] == ["ci", "cd"]


def test_a_reported_refusal_says_whose_it_was_even_if_the_key_has_ended() -> None:
    report = refusals(3)
    [event] = given(CI, key_revoked("ci")).when(by("ci", report)).events
    assert event.by == "ci"


@pytest.mark.parametrize(
    ("role", "command"),
    [
        (Role.WORKER, submit()),
        (Role.READER, submit()),
        (Role.SUBMITTER, claim()),
        (Role.READER, claim()),
        (Role.OPERATOR, claim()),
        (Role.SUBMITTER, ExtendLeases(worker=WORKER, jobs=[])),
        (Role.OPERATOR, complete()),
        (Role.SUBMITTER, fail()),
        (Role.READER, give_back()),
        (Role.WORKER, CancelJob(job_id=JobId(1))),
        (Role.READER, RetryJob(job_id=JobId(1))),
        (Role.OPERATOR, EraseBodies(job_id=JobId(1), attempt=0, positions=())),
        (Role.SUBMITTER, ChangeLimit(scope=Scope.GLOBAL, limit=1)),
        (Role.OPERATOR, create_key("other", Role.ADMIN)),
        (Role.READER, rotate_key("k", "second")),
        (Role.OPERATOR, revoke_key("k")),
    ],
)
def test_a_role_without_the_right_is_refused(role: Role, command: Command) -> None:
    scope = {"any_user": True}
    history = given(key_created("k", role, **scope))
    history.when(by("k", command)).then_refused(MissingRight)


def test_a_right_is_known_for_every_command_that_a_caller_may_send() -> None:
    sent_by_nobody = {
        ReportRefusals,
        ReportWrongKeys,
        EnforceDeadlines,
        UpdateLine,
        RecoverJobs,
        SaveProjections,
        TakeOutbox,
        BeginArchive,
        ArchiveSegments,
        CompleteArchive,
        RewriteSegment,
        EraseArchivedBodies,
        FireSchedule,
        AcceptLoss,
    }
    assert set(_NEEDED) == set(Command.__args__) - sent_by_nobody


def test_an_admin_has_every_right() -> None:
    assert RIGHTS[Role.ADMIN] == frozenset(Right)
    given(ROOT).when(by("root", create_key("ops", Role.OPERATOR))).then(
        key_created("ops", Role.OPERATOR, by=ROOT.name)
    )


# A submitter


def test_a_submitter_submits_for_its_own_users_alone() -> None:
    given(CI).when(by("ci", submit(BOB))).then_refused(NotForUser)
    acme = given(key_created("acme", user_prefix="acme/"))
    acme.when(by("acme", submit(UserId("acme")))).then_refused(NotForUser)
    found = acme.when(by("acme", submit(UserId("acme/bob"))))
    assert not isinstance(found.outcomes[0], Exception)


def test_a_submitter_submits_its_own_kinds_alone() -> None:
    some = given(key_created("ci", users=(ALICE,), kinds=(SLEEP,)))
    some.when(by("ci", submit(kind=ECHO))).then_refused(NotForKind)


@pytest.mark.parametrize(
    ("bounds", "asked"),
    [
        ({"priority_max": 0}, {"priority": 1}),
        ({"attempts_max": 2}, {"max_attempts": 3}),
        ({"timeout_seconds_max": 5.0}, {"timeout_seconds": 5.1}),
    ],
)
def test_a_submitter_asks_for_no_more_than_its_bounds(
    bounds: dict[str, Any], asked: dict[str, Any]
) -> None:
    bounded = given(key_created("ci", users=(ALICE,), **bounds))
    bounded.when(by("ci", submit(**asked))).then_refused(BeyondBounds)


def test_the_bounds_hold_for_what_a_submission_leaves_out_too() -> None:
    bounded = key_created("ci", users=(ALICE,), attempts_max=2, timeout_seconds_max=5.0)
    given(bounded).when(by("ci", submit())).then(
        admitted(by=CI.name), submitted(max_attempts=2, timeout_seconds=5.0, by=CI.name)
    )


def test_anothers_job_does_not_exist_for_a_submitter() -> None:
    history = given(CI, key_created("bobs", users=(BOB,)), submitted())
    for command in (CancelJob(job_id=JobId(3)), RetryJob(job_id=JobId(3))):
        refused = history.when(by("bobs", command)).then_refused(UnknownJob)
        assert str(refused) == str(UnknownJob(JobId(3)))


def test_a_job_of_a_kind_that_the_key_may_not_see_is_not_named() -> None:
    key = key_created("ci", users=(ALICE,), kinds=(SLEEP,))
    history = given(key, submitted(kind=ECHO, idempotency_key="k", key_is_explicit=True))
    found = history.when(by("ci", submit(kind=SLEEP, idempotency_key="k")))
    [refused] = found.outcomes
    assert isinstance(refused, KeyReusedWithOtherPayload)
    assert refused.job_id is None
    assert "2" not in str(refused)


# A worker


def test_a_start_says_which_key_claimed_the_job() -> None:
    history = given(W1, submitted())
    found = history.when(by("w1", claim(1, ECHO)))
    assert found.events == [started(by=W1.name)]
    assert found.so.job(2).holder == "w1"


@pytest.mark.parametrize(
    "command",
    [complete(job_id=JOB), fail(job_id=JOB), give_back(job_id=JOB)],
    ids=lambda command: type(command).__name__,
)
def test_nobody_but_the_key_that_claimed_a_job_reports_on_it(command: Command) -> None:
    HELD.when(by("w2", command)).then_refused(UnknownJob)
    HELD.when(command).then_refused(UnknownJob)  # a worker without a key
    assert not isinstance(HELD.when(by("w1", command)).outcomes[0], Exception)


def test_an_outcome_repeated_by_another_key_shows_nothing() -> None:
    done = HELD.when(by("w1", complete(job_id=JOB))).so
    done.when(by("w1", complete(job_id=JOB))).then_nothing()
    done.when(by("w2", complete(job_id=JOB))).then_refused(UnknownJob)


def test_a_completion_says_who_completed() -> None:
    found = HELD.when(by("w1", complete(job_id=JOB)))
    [event] = found.events
    assert isinstance(event, JobCompleted)
    assert event.by == "w1"


def test_another_key_with_the_same_worker_name_extends_no_lease() -> None:
    late = HELD.after(20)
    beat = ExtendLeases(worker=WORKER, jobs=[(JOB, 1)])
    assert late.when(by("w2", beat)).answer(LeasesHeld).lost == [(JOB, 1)]
    assert late.when(by("w2", beat)).events == []
    assert late.when(by("w1", beat)).answer(LeasesHeld).lost == []


def test_another_key_with_the_same_worker_name_gets_no_job_by_a_claim_id() -> None:
    history = given(W1, W2, submitted(), started(claim_id="c", by=W1.name))
    repeated = by("w1", claim(1, ECHO, claim_id="c"))
    assert history.when(repeated).answer(Claimed).is_repeated
    assert history.when(by("w2", claim(1, ECHO, claim_id="c"))).answer(Claimed).jobs == []


def test_a_worker_claims_its_own_kinds_alone() -> None:
    some = given(key_created("w", Role.WORKER, kinds=(SLEEP,)), submitted())
    some.when(by("w", claim(1, ECHO))).then_refused(NotForKind)
    some.when(by("w", claim(1))).then_refused(MissingRight)
    assert some.when(by("w", claim(1, SLEEP))).answer(Claimed).jobs == []


def test_a_cancelled_attempt_is_ended_by_its_own_key_alone() -> None:
    cancelled = HELD.when(CancelJob(job_id=JOB)).so
    cancelled.when(by("w2", complete(job_id=JOB))).then_refused(UnknownJob)
    found = cancelled.when(by("w1", complete(job_id=JOB)))
    assert isinstance(found.outcomes[0], NotTheCurrentAttempt)
    assert [event.by for event in found.events] == ["w1"]


def test_an_operator_takes_back_what_a_worker_holds() -> None:
    found = HELD.when(by("ops", ReturnJob(job_id=JOB, attempt=1)))
    assert [event.by for event in found.events] == ["ops"]
    assert found.so.job(JOB).state == "queued"
