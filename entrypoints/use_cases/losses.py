"""Accepts that the database has lost the end of the log, so that the service goes on without it."""

from adapters.log import lost_events
from adapters.log.lost_events import LostEvents
from domain.decisions.answers import LossWasAccepted
from domain.decisions.losses import LOST_MAX
from domain.language.commands import AcceptLoss
from domain.language.errors import TooManyLost
from entrypoints.service.fairlog import Fairlog
from projections.storage.rows import create_all


def reported_loss(fairlog: Fairlog) -> LostEvents:
    """Return what servers have reported of events after the end of the log.

    The table of reports is made if it is missing, as after a restore.
    """
    with fairlog.database.write() as connection:
        create_all(connection, [lost_events.lost_events])
    return fairlog.read_now(
        lambda connection: lost_events.reported(connection, fairlog.log.position(connection))
    )


def accept_loss(
    fairlog: Fairlog, loss: LostEvents, up_to: int, *, gives_numbers_again: bool
) -> int:
    """Record that the events after `loss.at` up to a position are lost; return the position of
    `LossAccepted`. The writer must run.

    The numbers of lost events after `up_to` are given again, which has to be said if servers have
    reported some. Raises `LossElsewhere`, `MoreLost` and `TooManyLost`.
    """
    if up_to - loss.at > LOST_MAX:
        raise TooManyLost(up_to - loss.at, LOST_MAX)
    lost = loss.in_order(up_to)
    command = AcceptLoss(at=loss.at, lost=lost, gives_numbers_again=gives_numbers_again)
    answer = fairlog.execute_now(command)
    assert isinstance(answer, LossWasAccepted), answer
    return answer.position
