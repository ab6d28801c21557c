"""Shares of users while others waited, and breaches of the promise of fair order.

Both follow from the latest starts of jobs. The promise: while users wait for jobs of one kind, none
is served twice before another is served once. So a user was passed over if another one was served
twice since the job that was started next for them had joined the line, and since their last turn.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from domain.language.identifiers import JobId, Kind, UserId

_NEVER: Final = 0  # before all positions


class Start(Struct, frozen=True):
    """A start of a job."""

    position: int  # of its JobStarted
    at: datetime  # UTC, by the log's clock
    user_id: UserId
    kind: Kind
    job_id: JobId
    ready: int  # position at which the job joined the line
    ready_at: datetime | None = None  # likewise; None: it is not known


class UnstartedJob(Struct, frozen=True):
    """The next job of a user's lane, which has not been started."""

    user_id: UserId
    kind: Kind
    job_id: JobId
    ready: int  # as of a `Start`


class UserShare(Struct):
    """The share of one user."""

    user_id: UserId
    starts: int = 0
    contended: int = 0  # starts while another user waited for a job of the same kind
    waits: int = 0  # starts whose wait is known
    waited_seconds: float = 0.0  # of them, together
    longest_seconds: float = 0.0

    @property
    def mean_seconds(self) -> float | None:
        return self.waited_seconds / self.waits if self.waits else None


class PassedOver(Struct, frozen=True):
    """A user whose job waited while another user was served twice."""

    user_id: UserId
    kind: Kind
    job_id: JobId
    by: UserId  # who was served twice


class FairShares(Struct, frozen=True):
    """The shares of all users in some consecutive starts, the largest contended share first."""

    shares: Sequence[UserShare]
    contended: Sequence[bool]  # for each start, in order
    passed_over: Sequence[PassedOver]  # in order; none: the promise held


def fair_shares(
    starts: Sequence[Start],
    waiting: Iterable[UnstartedJob],
    capped: Collection[UserId],
    weighted: Collection[UserId] = frozenset(),
) -> FairShares:
    """Examine consecutive starts, in log order, and the jobs that wait after them.

    `capped` are users with a limit of starts: what held one back may have been that limit, so the
    promise does not cover them, and nobody's start counts as contended because of them. `weighted`
    are users with another weight than 1, whom the promise does not cover either.
    """
    waiting = [job for job in waiting if job.user_id not in capped]
    contended = _contended(starts, waiting, capped)
    shares: dict[UserId, UserShare] = {}
    for start, is_contended in zip(starts, contended, strict=True):
        share = shares.setdefault(start.user_id, UserShare(start.user_id))
        share.starts += 1
        share.contended += is_contended
        if (waited := wait_of(start)) is not None:
            share.waits += 1
            share.waited_seconds += waited
            share.longest_seconds = max(share.longest_seconds, waited)
    ordered = sorted(shares.values(), key=lambda one: (-one.contended, -one.starts, one.user_id))
    return FairShares(ordered, contended, _passed_over(starts, waiting, capped, weighted))


def wait_of(start: Start) -> float | None:
    """Return the seconds from joining the line to the start; None: not known."""
    if start.ready_at is None:
        return None
    return max(0.0, (start.at - start.ready_at).total_seconds())


class _EarliestReady:
    """The two lowest positions at which jobs of a kind joined the line, of different users."""

    def __init__(self) -> None:
        self._lowest: list[tuple[int, UserId]] = []

    def add(self, ready: int, user_id: UserId) -> None:
        by_user = {known: position for position, known in self._lowest}
        by_user[user_id] = min(ready, by_user.get(user_id, ready))
        self._lowest = sorted((position, known) for known, position in by_user.items())[:2]

    def of_others(self, user_id: UserId) -> int | None:
        return next((ready for ready, known in self._lowest if known != user_id), None)


def _contended(
    starts: Sequence[Start], waiting: Iterable[UnstartedJob], capped: Collection[UserId]
) -> list[bool]:
    """Return for each start whether a job of the kind of another user, which was started later or
    still waits, was in line before it.
    """
    earliest: defaultdict[Kind, _EarliestReady] = defaultdict(_EarliestReady)
    for job in waiting:
        earliest[job.kind].add(job.ready, job.user_id)
    found = []
    for start in reversed(starts):
        others = earliest[start.kind].of_others(start.user_id)
        found.append(others is not None and others < start.position)
        if start.user_id not in capped:
            earliest[start.kind].add(start.ready, start.user_id)
    return found[::-1]


class _Twice(Struct):
    """The latest two starts of one user of a kind whose first is the latest of all users'."""

    first: int = _NEVER  # position
    user_id: UserId = UserId("")


def _passed_over(
    starts: Sequence[Start],
    waiting: Iterable[UnstartedJob],
    capped: Collection[UserId],
    weighted: Collection[UserId],
) -> list[PassedOver]:
    if not starts:
        return []
    last: dict[UserId, int] = {}  # position of the latest start of any kind
    last_of_kind: dict[tuple[UserId, Kind], int] = {}
    twice: defaultdict[Kind, _Twice] = defaultdict(_Twice)
    found = []
    # Of a user's first start here, the turn before is not known: it was before all of these.
    for start in starts:
        if start.user_id in weighted:
            continue
        since = max(start.ready, last.get(start.user_id, _NEVER))
        if start.user_id not in capped and twice[start.kind].first > since:
            by = twice[start.kind].user_id
            found.append(PassedOver(start.user_id, start.kind, start.job_id, by))
        lane = (start.user_id, start.kind)
        if last_of_kind.get(lane, _NEVER) > twice[start.kind].first:
            twice[start.kind] = _Twice(last_of_kind[lane], start.user_id)
        last[start.user_id] = last_of_kind[lane] = start.position
    for job in waiting:
        if job.user_id in weighted:
            continue
        since = max(job.ready, last.get(job.user_id, _NEVER))
        if job.kind in twice and twice[job.kind].first > since:
            found.append(PassedOver(job.user_id, job.kind, job.job_id, twice[job.kind].user_id))
    return found
