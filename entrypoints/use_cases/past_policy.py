"""The limits of then that nobody had set: what they were stands in what was decided."""

from collections.abc import Sequence
from itertools import islice
from typing import Final

from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log.histories import EVENTS_PER_PAGE, newest_first
from domain.audit.system_state import SystemState
from domain.language.events import LimitChanged, RateLimitDecided, Recorded, Scope
from domain.language.identifiers import GLOBAL, Kind
from domain.language.policy import Policy
from domain.limits.rate_limits import limit_of_everyone
from entrypoints.service.fairlog import Fairlog

_DECIDED: Final = "RateLimitDecided"
_LIMIT_CHANGED: Final = "LimitChanged"
_SUBMITTED: Final = "JobSubmitted"
_EVERYONE: Final = (GLOBAL, Kind(""))


def policy_then(fairlog: Fairlog, connection: Connection, standing: SystemState) -> Policy:
    """Ours, but with the window and the limit of all users together that were in force.

    The latest decision that tells them counts, and ours where none does.
    """
    policy = fairlog.policy
    decisions = newest_first(connection, _DECIDED, 0, standing.position, is_frequent=True)
    latest = list(islice(decisions, EVENTS_PER_PAGE))
    if not latest or not isinstance(latest[0].event, RateLimitDecided):
        return policy
    policy = replace(policy, window_seconds=latest[0].event.window_seconds)
    since = _default_since(connection, standing)
    limit = _told(latest, since)
    if limit is None and len(latest) == EVENTS_PER_PAGE and latest[-1].position > since:
        limit = _told(_latest_admission(fairlog, connection, since, standing.position), since)
    return policy if limit is None else replace(policy, global_limit=limit)


def _default_since(connection: Connection, standing: SystemState) -> int:
    """Behind which position no limit was set for all users together; the end if one is."""
    limits = standing.windows.limits.get(_EVERYONE)
    if limits is None:
        return 0
    since = standing.position
    for recorded in newest_first(connection, _LIMIT_CHANGED, 0, standing.position):
        match recorded.event:
            case LimitChanged(scope=Scope.GLOBAL, limit=None):
                since = recorded.position
            case LimitChanged(scope=Scope.GLOBAL):
                return since
            case _:
                pass
    return 0


def _told(decisions: Sequence[Recorded], since: int) -> int | None:
    """The limit of all users together by the first that tells it.

    Refusals are recorded after they were made: where a limit was set and taken back, they may
    still tell of that one.
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
    """The decision about the newest job, which stands right before it.

    For when very many users were refused by limits of their own, which tells nothing of all.
    """
    jobs = newest_first(connection, _SUBMITTED, since + 1, up_to + 1, is_frequent=True)
    submitted = next(jobs, None)
    return [] if submitted is None else fairlog.log.read(connection, submitted.position - 2, 1)
