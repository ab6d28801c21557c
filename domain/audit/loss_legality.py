"""The check of accepted losses; `domain.decisions.losses` has the rules."""

from domain.jobs.job import Job
from domain.language.events import EventLost, LossAccepted, Recorded


def check_loss_event(
    _: Job | None, recorded: Recorded, event: EventLost | LossAccepted
) -> str | None:
    """Say what is wrong with an event by itself; None: nothing."""
    if recorded.job_id is not None:
        return f"it names job {recorded.job_id}"
    if isinstance(event, LossAccepted) and event.at >= recorded.position:
        return f"it is about the event {event.at}, which comes later"
    return None


class LossCheck:
    """Checks, event after event, that each `EventLost` belongs to a `LossAccepted`."""

    def __init__(self) -> None:
        self._at: int | None = None  # before the lost events that came last; None: there are none

    def wrong(self, recorded: Recorded) -> str | None:
        """Say what is wrong with the next event; None: nothing."""
        before, self._at = self._at, None
        match recorded.event:
            case EventLost():
                self._at = recorded.position - 1 if before is None else before
            case LossAccepted(at=at):
                expected = recorded.position - 1 if before is None else before
                if at != expected:
                    return f"it accepts a loss after {at}, and the log had ended at {expected}"
            case _ if before is not None:
                return f"the events from {before + 1} were lost, and nobody has accepted it"
            case _:
                pass
        return None
