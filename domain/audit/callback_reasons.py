"""Says what became of the callbacks that tell the end of a job."""

from collections.abc import Sequence

from msgspec import Struct

from domain.audit.reasons import Reason, amount
from domain.jobs.job import State
from domain.language.callbacks import CALLBACK_USERS
from domain.language.identifiers import JobId, UserId

DELIVERIES_NAMED_MAX = 10  # the rest is counted


class DeliveryState(Struct, frozen=True):
    """A delivery as it stands."""

    id: JobId
    user_id: UserId
    state: State
    attempt: int  # the latest


def deliveries(known: Sequence[DeliveryState], count: int) -> Reason:
    """Name the jobs that tell its end; `known` are the latest of them."""
    named = [_one(delivery) for delivery in known]
    others = f" and {amount(count - len(known), 'other')}" if count > len(known) else ""
    return Reason(
        "callbacks",
        f"Its end is told by {', '.join(named)}{others}.",
        {"deliveries": tuple(one.id for one in known), "deliveries_all": count},
    )


def _one(delivery: DeliveryState) -> str:
    host = delivery.user_id.removeprefix(CALLBACK_USERS)
    tries = f" after attempt {delivery.attempt}" if delivery.attempt > 1 else ""
    return f"job {delivery.id} to {host} ({delivery.state.value}{tries})"
