"""Accepts that the database has lost the end of the log, so that the service goes on without it."""

from adapters.log import lost_events
from adapters.log.lost_events import LostEvents
from domain.decisions.answers import LossWasAccepted
from domain.language.commands import AcceptLoss
from entrypoints.service.fairlog import Fairlog


def reported_loss(fairlog: Fairlog) -> LostEvents:
    """Return what servers have reported of events after the end of the log."""
    return fairlog.read_now(
        lambda connection: lost_events.reported(connection, fairlog.log.position(connection))
    )


def accept_loss(fairlog: Fairlog, loss: LostEvents, known: int) -> int:
    """Record that the events after `loss.at` up to `known` are lost; return the position of
    `LossAccepted`. The writer must run.

    With `known` at `loss.at` the numbers of lost events are given again. Raises `LossElsewhere`
    and `TooManyLost`.
    """
    command = AcceptLoss(at=loss.at, lost=loss.in_order(known))
    answer = fairlog.execute_now(command)
    assert isinstance(answer, LossWasAccepted), answer
    with fairlog.database.write() as connection:
        lost_events.forget(connection)
    return answer.position
