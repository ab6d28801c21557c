from collections.abc import Sequence
from typing import Final

import msgspec
import pytest

from adapters.processes.sent_errors import SentError
from domain.language import errors
from domain.language.errors import FairlogError, Refusal
from domain.language.identifiers import (
    CallbackName,
    JobId,
    KeyName,
    Kind,
    PlanName,
    ScheduleName,
    UserId,
)
from tests.support.given import NOW
from tests.support.stories import ALICE, admitted

_JOB: Final = JobId(7)
_KEY: Final = KeyName("ci")
_SCHEDULE: Final = ScheduleName("nightly")
_ERRORS: Final[Sequence[FairlogError]] = (
    errors.ArchiveConflict(9),
    errors.SegmentConflict("one.parquet"),
    errors.LossElsewhere(9, 7),
    errors.TooManyLost(9, 7),
    errors.MoreLost(9),
    errors.JobLost(_JOB),
    errors.EventsArchived(9),
    errors.JobArchived(_JOB, "one.parquet"),
    errors.BeyondBounds(_KEY, "priority", 5),
    errors.BodiesAreNeeded(_JOB, "running"),
    errors.BodyMissing([3, 5]),
    errors.LogIsBehind(3, 5),
    errors.EventsLost(3, 5),
    errors.ClockInDoubt(NOW, NOW),
    errors.FairlogError("plain"),
    errors.HeldByAnother(_JOB),
    errors.InvalidInput("too large", is_too_large=True),
    errors.JobHasEnded(_JOB, "failed"),
    errors.JobHasMovedOn(_JOB),
    errors.JobHasNotEnded(_JOB, "running"),
    errors.JobWasErased(_JOB),
    errors.KeyExists(_KEY),
    errors.KeyHasEnded(_KEY),
    errors.KeyNotValid(),
    errors.KeyReusedWithOtherPayload("key", _JOB),
    errors.LeaseHasEnded(_JOB, 1, NOW),
    errors.LogCorrupt("corrupt"),
    errors.LogFileReplaced("replaced"),
    errors.LogTooNew("too new"),
    errors.LogUnavailable("away", nothing_was_recorded=True),
    errors.MissingRight(_KEY, "worker", ["submit"]),
    errors.NotAllowed("not this"),
    errors.NotForKind(_KEY, Kind("echo"), [Kind("sleep")]),
    errors.NotForUser(_KEY, ALICE),
    errors.NotTheCurrentAttempt(_JOB, 1, 2, "running"),
    errors.QueueFull("full"),
    errors.RateLimited(admitted(), NOW, UserId("bob")),
    errors.Refusal("no"),
    errors.ReturnedTooOften(_JOB, 9),
    errors.TimeWasUp(_JOB, 1, NOW),
    errors.TooManyKeys(3),
    errors.TooManyKinds(ALICE, 3),
    errors.TooManyQueues(3, "of user 'alice'"),
    errors.TooManySecrets(_KEY, 3),
    errors.UnknownCallback(CallbackName("orders")),
    errors.TooManyCallbacks(50),
    errors.UnknownPlan(PlanName("gold")),
    errors.PlanInUse(PlanName("gold"), 2),
    errors.BeyondLimits(ALICE, "priority", 3, PlanName("gold")),
    errors.TooManyLimits(10_000),
    errors.UnknownJob(_JOB, NOW),
    errors.UnknownKey(_KEY),
    errors.UnknownParent(_JOB, may_be_archived=False),
    errors.EntryRefused(3),
    errors.ArchiveUnavailable("full"),
    errors.SegmentUnusable("cut short"),
    errors.UnknownSchedule(_SCHEDULE),
    errors.BackfillGoesOn(_SCHEDULE, NOW),
    errors.NothingToBackfill(_SCHEDULE),
    errors.TooManyTimes(1_000, NOW),
    errors.OutboxUnavailable("gone"),
    errors.WriteFailed("refused"),
)


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_with_all_that_it_holds(error: FairlogError) -> None:
    found = through(error)
    assert type(found) is type(error)
    assert (str(found), found.args, found.__dict__) == (str(error), error.args, error.__dict__)


def test_every_error_of_the_tree_is_tried() -> None:
    every = {one for one in vars(errors).values() if isinstance(one, type)}
    tree = {one for one in every if issubclass(one, FairlogError)}
    assert {type(error) for error in _ERRORS} == tree


def test_a_refusal_arrives_with_the_decision_about_its_submission() -> None:
    refused = errors.UnknownJob(_JOB)
    refused.decision, refused.decided_at = admitted(), NOW
    found = through(refused)
    assert isinstance(found, Refusal)
    assert (found.decision, found.decided_at) == (admitted(), NOW)


def test_any_other_exception_is_named_whatever_it_holds() -> None:
    found = through(ValueError("broken", lambda: None))
    assert type(found) is RuntimeError
    assert str(found).startswith("ValueError('broken', ")


def through(error: Exception) -> Exception:
    data = msgspec.msgpack.encode(SentError.of(error))
    return msgspec.msgpack.decode(data, type=SentError).restored()
