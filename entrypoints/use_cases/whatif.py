"""Decides the recorded submissions of some time again, under other limits."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.histories import of_types
from domain.audit.whatif import Defaults, OtherLimits, Outcome, WhatIf, warm_up_from
from domain.language.events import RateLimitDecided
from domain.language.identifiers import UserId
from entrypoints.service.fairlog import Fairlog
from projections.following.snapshots import current, state_at

Progress = Callable[[int, int], None]  # events examined, events in all
_TYPES: Final = ("RateLimitDecided", "LimitChanged", "PlanDeleted")
_EVENTS_PER_REPORT: Final = 5_000


class WhatIfResult(Struct, frozen=True):
    """The outcome under other limits."""

    users: Mapping[UserId, Outcome]  # all who submitted anything
    total: Outcome
    events: int  # events of the log in that time


def what_if(
    fairlog: Fairlog,
    connection: Connection,
    other: OtherLimits,
    since: datetime | None,
    until: datetime | None,
    progress: Progress = lambda _done, _total: None,
) -> WhatIfResult:
    """Replay the submissions that were recorded from `since` (inclusive) to `until` (exclusive).

    None: from the beginning, or to the current end of the log.
    """
    log, policy = fairlog.log, fairlog.policy
    end = log.position(connection) if until is None else audit_log.first_at(connection, until) - 1
    begin = 0 if since is None else _begin(fairlog, connection, other, since)
    settings = state_at(connection, current(), log.read, begin).limits
    replay = WhatIf(other, Defaults(policy.user_limit, policy.global_limit), since, settings)
    for number, recorded in enumerate(of_types(connection, _TYPES, begin, end)):
        replay.take(recorded)
        if number % _EVENTS_PER_REPORT == 0:
            progress(recorded.position - begin, end - begin)
    total = replay.finish()
    return WhatIfResult(replay.users, total, max(0, end - begin))


def _begin(fairlog: Fairlog, connection: Connection, other: OtherLimits, since: datetime) -> int:
    """Return the position before the earliest window that contains `since`, whichever of the window
    lengths applies.
    """
    log = fairlog.log
    first = audit_log.first_at(connection, since)
    lengths = {fairlog.policy.window_seconds, other.window_seconds or 1}
    nearby = of_types(connection, ["RateLimitDecided"], first - 1, log.position(connection))
    event = next((one.event for one in nearby), None)
    if isinstance(event, RateLimitDecided):
        lengths.add(event.window_seconds)
    return audit_log.first_at(connection, min(warm_up_from(since, one) for one in lengths)) - 1
