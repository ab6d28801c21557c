"""Fairness: what each user got while others waited, whether the promise held, and whose turn it is.

It shows the latest starts of jobs, so that the cost of a page does not grow with the log.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.audit.fair_shares import FairShares, Start, fair_shares, wait_of
from domain.jobs.job import State
from domain.language.identifiers import UserId
from domain.language.moments import to_micros
from entrypoints.dashboard.context import DashboardContext, ShownMoment
from entrypoints.dashboard.recent_starts import recent_starts
from entrypoints.service.limit_views import weight_of

_NEXT_SHOWN: Final = 20
_WAITING_SHOWN: Final = 30
_SHARES_SHOWN: Final = 20
_USERS_DRAWN: Final = 5
_POINTS: Final = 40
_PASSED_OVER_SHOWN: Final = 5


class FairSeries(Struct):
    """Columns for the charts: for each of the users, one number for each point of time."""

    at: list[int]  # start of each span of time, UTC, Unix seconds
    users: list[UserId]
    got: list[list[int]]  # starts while others waited, added up
    wait: list[list[float | None]]  # mean seconds from joining the line to the start; None: none


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
    recent = recent_starts(connection)
    in_line = [user_id for user_id, _ in turns]
    shown = dict.fromkeys([*in_line, *(user_id for user_id, _ in waiting)])
    started = dict.fromkeys(start.user_id for start in recent.starts)
    users = context.front.users(connection, list(shown | started))
    limits = fairlog.windows.limits_of(connection, users)
    next_jobs = context.front.next_jobs(connection, in_line)
    weights = {user_id: weight_of(limits.of_user(user_id)) for user_id in users}
    found = fair_shares(
        recent.starts,
        [job for one in next_jobs if (job := recent.waiting(one)) is not None],
        {user_id for user_id in users if limits.limits_starts(user_id)},
        {user_id for user_id, weight in weights.items() if weight != 1},
    )
    served = [users[user_id].last_served for user_id in shown if user_id in users]
    served_at = audit_log.times_at(connection, [one for one in served if one is not None])
    return {
        "counts": fairlog.jobs.counts(connection),
        "queued": State.QUEUED,
        "turns": turns,
        "waiting": [(user_id, load, users.get(user_id)) for user_id, load in waiting],
        "served_at": served_at,
        "waits": context.waits(connection, list(shown), at),
        "since": recent.starts[0].at if recent.starts else None,
        "starts": len(recent.starts),
        "shares": found.shares[:_SHARES_SHOWN],
        "contended": sum(found.contended),
        "users": users,
        "caps": {user_id: limits.of_user(user_id).running for user_id in users},
        "paused": {user_id for user_id in users if limits.of_user(user_id).paused},
        "weights": weights,
        "weighted": sum(one.contended / weights.get(one.user_id, 1) for one in found.shares),
        "passed_over": found.passed_over[:_PASSED_OVER_SHOWN],
        "broken": len(found.passed_over),
        "series": msgspec.json.encode(series_of(recent.starts, found, at.now)).decode(),
    }


def series_of(starts: Sequence[Start], found: FairShares, now: datetime) -> FairSeries:
    """Return the columns of the users with the most starts, over the time of the starts."""
    most = sorted(found.shares, key=lambda share: -share.starts)[:_USERS_DRAWN]
    drawn = [share.user_id for share in most]
    if not starts:
        return FairSeries([], [], [], [])
    first = _seconds(starts[0].at)
    length = max(1, math.ceil((_seconds(now) - first + 1) / _POINTS))
    points = (_seconds(now) - first) // length + 1
    got = {user_id: [0] * points for user_id in drawn}
    waits: dict[UserId, list[list[float]]] = {
        user_id: [[] for _ in range(points)] for user_id in drawn
    }
    for start, is_contended in zip(starts, found.contended, strict=True):
        if start.user_id not in got:
            continue
        point = min(points - 1, (_seconds(start.at) - first) // length)
        got[start.user_id][point] += is_contended
        if (waited := wait_of(start)) is not None:
            waits[start.user_id][point].append(waited)
    return FairSeries(
        [first + point * length for point in range(points)],
        drawn,
        [list(accumulate(got[user_id])) for user_id in drawn],
        [[sum(some) / len(some) if some else None for some in waits[user_id]] for user_id in drawn],
    )


def _seconds(moment: datetime) -> int:
    return to_micros(moment) // 1_000_000
