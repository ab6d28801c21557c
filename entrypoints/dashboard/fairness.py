"""Fairness: whose turn it is, who waits, and who was served recently."""

from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.jobs.job import State
from domain.language.identifiers import UserId
from entrypoints.dashboard.context import HOUR_SECONDS, DashboardContext, ShownMoment
from projections.activity.metrics import highest, total

_NEXT_SHOWN: Final = 20
_WAITING_SHOWN: Final = 30
_SERVED_SHOWN: Final = 20
_MINUTE: Final = 60


@get("/fairness")
async def fairness(
    request: Request[Any, Any, Any], context: NamedDependency[DashboardContext]
) -> Response[str]:
    return await context.show(
        request, "fairness", "Fairness", lambda connection, at: _read(context, connection, at)
    )


def _read(context: DashboardContext, connection: Connection, at: ShownMoment) -> dict[str, object]:
    fairlog = context.fairlog
    turns = fairlog.line.next_users(connection, _NEXT_SHOWN)
    waiting = context.activity.most_waiting(connection, _WAITING_SHOWN)
    users = context.front.users(connection, [user_id for user_id, _ in waiting])
    served = [user.last_served for _, user in turns] + [user.last_served for user in users.values()]
    served_at = audit_log.times_at(connection, [one for one in served if one is not None])
    shown: list[UserId] = [user_id for user_id, _ in turns] + [user_id for user_id, _ in waiting]
    since = at.seconds - HOUR_SECONDS
    leading = context.activity.top_counts(connection, since)
    metrics = total(one for _, one in context.activity.series(connection, _MINUTE, since))
    return {
        "counts": fairlog.jobs.counts(connection),
        "queued": State.QUEUED,
        "turns": turns,
        "waiting": [(user_id, load, users.get(user_id)) for user_id, load in waiting],
        "served_at": served_at,
        "waits": context.waits(connection, list(dict.fromkeys(shown)), at),
        "served": highest(leading.served, _SERVED_SHOWN),
        "started": metrics.started,
    }
