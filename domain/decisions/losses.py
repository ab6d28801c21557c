"""Losses: a database that was put in another's place lacks the end of the log.

Nothing is written before an operator accepts the loss. Then `EventLost` stands at the position of
each event that is known to be lost, and `LossAccepted` follows, so that no number is given twice:
workers, callers and receivers of callbacks still hold those of lost jobs. See ADR 63.
"""

from collections.abc import Sequence
from typing import Final

from domain.language.commands import AcceptLoss
from domain.language.errors import LossElsewhere, MoreLost, TooManyLost
from domain.language.events import Event, LossAccepted

LOST_MAX: Final = 50_000  # events that one command accepts, in one transaction of some 10 MB


def decide_loss(position: int, command: AcceptLoss) -> Sequence[Event]:
    """Return the events that follow the end of the log, which is at `position`.

    Raises `LossElsewhere` if that is not where the operator saw it, `MoreLost` if more was reported
    since, and `TooManyLost`.
    """
    if position != command.at:
        raise LossElsewhere(position, command.at)
    if command.reported > command.at + len(command.lost) and not command.gives_numbers_again:
        raise MoreLost(command.reported)
    if len(command.lost) > LOST_MAX:
        raise TooManyLost(len(command.lost), LOST_MAX)
    return [*command.lost, LossAccepted(at=command.at)]
