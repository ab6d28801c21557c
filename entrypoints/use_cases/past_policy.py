"""Finds the default limits that were in force at a moment of the past, in the decisions of then."""

from collections.abc import Sequence
from itertools import islice
from typing import Final

from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log.histories import EVENTS_PER_PAGE
from domain.audit.system_state import SystemState
from domain.language.events import LimitChanged, RateLimitDecided, Recorded, Scope
from domain.language.policy import Policy
from domain.limits.rate_limits import limit_of_everyone
from entrypoints.service.fairlog import Fairlog

_DECIDED: Final = "RateLimitDecided"
_LIMIT_CHANGED: Final = "LimitChanged"
_SUBMITTED: Final = "JobSubmitted"


def policy_then(fairlog: Fairlog, connection: Connection, state: SystemState) -> Policy:
    """Return today's policy with the window and the global limit that were in force then.

    They come from the latest decision that has them; without one, today's stay.
    """
    policy = fairlog.policy
    decisions = fairlog.past.newest_first(connection, _DECIDED, 0, state.position, is_frequent=True)
    latest = list(islice(decisions, EVENTS_PER_PAGE))
    seconds = next(filter(None, map(_default_window, latest)), None)
    if seconds is None:
        return policy
    policy = replace(policy, window_seconds=seconds)
    since = _default_since(fairlog, connection, state)
    limit = _global_limit(latest, since)
    if limit is None and len(latest) == EVENTS_PER_PAGE and latest[-1].position > since:
        admission = _latest_admission(fairlog, connection, since, state.position)
        limit = _global_limit(admission, since)
    return policy if limit is None else replace(policy, global_limit=limit)


def _default_window(recorded: Recorded) -> int | None:
    """Return the length of the window that everybody has; None if another one refused."""
    event = recorded.event
    if not isinstance(event, RateLimitDecided) or event.is_by_further:
        return None
    return event.window_seconds


def _default_since(fairlog: Fairlog, connection: Connection, state: SystemState) -> int:
    """Return the position after which the default was the global limit; the end if it was not."""
    if not state.limits.has_changed_everyone:
        return 0
    since = state.position
    for recorded in fairlog.past.newest_first(connection, _LIMIT_CHANGED, 0, state.position):
        match recorded.event:
            case LimitChanged(scope=Scope.GLOBAL, limit=None):
                since = recorded.position
            case LimitChanged(scope=Scope.GLOBAL):
                return since
            case _:
                pass
    # An earlier change may be in the archived part of the log.
    return 0 if state.limits.everyone.submissions is None else since


def _global_limit(decisions: Sequence[Recorded], since: int) -> int | None:
    """Return the global limit in the first decision that has it.

    Refusals are recorded later than they are made. If the limit was changed, they may contain the
    former one and do not count.
    """
    for recorded in decisions:
        decided = recorded.event
        if (
            isinstance(decided, RateLimitDecided)
            and recorded.position > since
            and (decided.allowed or since == 0)
            and (limit := limit_of_everyone(decided)) is not None
        ):
            return limit
    return None


def _latest_admission(
    fairlog: Fairlog, connection: Connection, since: int, up_to: int
) -> list[Recorded]:
    """Return the decision on the newest job, which is the event before it.

    It is needed if all recent decisions refuse users by limits of their own.
    """
    jobs = fairlog.past.newest_first(connection, _SUBMITTED, since + 1, up_to + 1, is_frequent=True)
    submitted = next(jobs, None)
    if submitted is None or submitted.position - 2 < fairlog.past.cut(connection).position:
        return []
    return fairlog.past.read(connection, submitted.position - 2, 1)
