"""A lost end of the log is accepted where the operator saw it, and no number is given twice."""

import pytest

from domain.audit.loss_legality import LossCheck
from domain.decisions import losses
from domain.decisions.losses import decide_loss
from domain.language.commands import AcceptLoss
from domain.language.errors import LossElsewhere, MoreLost, TooManyLost
from domain.language.events import Event, EventLost, LossAccepted, Recorded
from domain.language.identifiers import JobId
from tests.support.given import NOW, given
from tests.support.stories import ALICE, admitted, submit

LOST = (EventLost(lost_type="JobSubmitted", user_id=ALICE, lost_job_id=JobId(3)), EventLost())


def test_each_lost_event_keeps_its_position() -> None:
    after = given().when(submit(), AcceptLoss(at=2, lost=LOST), submit(payload=2))
    assert [one.event for one in after.recorded[2:5]] == [*LOST, LossAccepted(at=2)]
    assert after.recorded[-1].position == 7


def test_nothing_is_accepted_where_the_log_ends_elsewhere() -> None:
    given().when(AcceptLoss(at=2, lost=LOST)).then_refused(LossElsewhere)


def test_more_than_one_transaction_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "LOST_MAX", 1)
    with pytest.raises(TooManyLost, match="--forget"):
        decide_loss(2, AcceptLoss(at=2, lost=LOST))


def test_what_was_reported_since_the_operator_looked_is_not_passed_over() -> None:
    command = AcceptLoss(at=2, lost=LOST, reported=5)
    with pytest.raises(MoreLost, match="up to 5"):
        decide_loss(2, command)
    again = AcceptLoss(at=2, lost=(), reported=5, gives_numbers_again=True)
    assert decide_loss(2, again) == [LossAccepted(at=2)]


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([admitted(), *LOST, LossAccepted(at=1), admitted()], None),
        ([admitted(), LossAccepted(at=1)], None),
        ([admitted(), *LOST, LossAccepted(at=2)], "the log had ended at 1"),
        ([admitted(), *LOST, admitted()], "the events from 2 were lost"),
    ],
)
def test_a_loss_that_nobody_has_accepted_is_found(events: list[Event], wrong: str | None) -> None:
    check = LossCheck()
    found = [
        check.wrong(Recorded(position, NOW, None, event))
        for position, event in enumerate(events, 1)
    ]
    assert [one for one in found if one] == [] if wrong is None else wrong in str(found)
