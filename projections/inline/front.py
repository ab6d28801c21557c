"""Reads more of the stored line for a claim: lanes in the order of their turns, and their jobs.

The stored rows have to be current: the writer saves its changes before it reads them. What was read
stays in memory (`domain.fairness.known_line`), so more is read than one claim needs.
"""

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.known_line import KnownLine, Lane, Order, Unread, WaitingJob
from domain.fairness.serve import rounds
from domain.jobs.job import Job
from domain.language.identifiers import Kind, UserId
from projections.inline.jobs import jobs, take_job
from projections.inline.line import kinds, lanes
from projections.storage.rows import limited, placeholder, union

KINDS_PER_READ_MAX: Final = 250  # SQLite allows 500 selects in a UNION
LANES_PER_READ_MIN: Final = 100  # of each kind
JOBS_PER_READ_MIN: Final = 200  # of all lanes together

_Front = dict[Kind, list[tuple[int, UserId, int]]]  # (turn, user, jobs waiting) of a kind's lanes


class FrontOfLine:
    """Reads one generation of the line and of the jobs."""

    def __init__(self, connection: Connection, line: int, jobs: int) -> None:
        self._connection = connection
        self._line = line
        self._jobs = jobs

    def read(self, unread: Unread, model: WriteModel, required: RequiredRows) -> None:
        """Read what a claim depends on; the rows of the users found are required next."""
        known = model.line.known
        assert known is not None, "claims are decided by this line"
        wanted = sorted(unread.kinds)
        if unread.more_kinds:
            wanted += self._next_kinds(known)
            required.kinds.update(wanted)
        lanes_max = max(unread.jobs, LANES_PER_READ_MIN)
        front = self._front({kind: known.horizon(kind) for kind in wanted}, lanes_max)
        for kind, found in front.items():
            known.read_users(kind, found[-1][0] if len(found) == lanes_max else None)
            required.users.update(user_id for _, user_id, _ in found)
        counts = {
            lane: count
            for lane, (waiting, count) in _shares(front, unread.jobs).items()
            if lane not in known.lanes or len(known.lanes[lane].jobs) < waiting
        }
        for lane in unread.lanes:
            counts[lane] = 1 + max(unread.jobs, JOBS_PER_READ_MIN) // len(unread.lanes)
        self._read_jobs(counts, known, model, required)

    def _next_kinds(self, known: KnownLine) -> list[Kind]:
        """Return the next kinds by name that have waiting jobs and are below their caps.

        A kind that comes below its cap later is in memory by then.
        """
        rows = self._connection.execute(
            sa.select(kinds.c.kind)
            .where(
                kinds.c.generation == self._line,
                kinds.c.waits_as > known.last_kind.encode(),
                sa.or_(kinds.c.running_limit.is_(None), kinds.c.running < kinds.c.running_limit),
            )
            .order_by(kinds.c.waits_as)
            .limit(KINDS_PER_READ_MAX)
        )
        found = [Kind(bytes(kind).decode()) for (kind,) in rows]
        known.has_read_kinds = True
        known.has_more_kinds = len(found) == KINDS_PER_READ_MAX
        if found:
            known.last_kind = found[-1]
        return [kind for kind in found if known.horizon(kind) == 0]

    def _front(self, after: Mapping[Kind, float], lanes_max: int) -> _Front:
        """Return for each kind its first lanes after a turn."""
        mark = placeholder(self._connection)
        first = limited(
            self._connection,
            f"SELECT kind, turn, user_id, waiting FROM {lanes.name} WHERE generation = {mark}"
            f" AND kind = {mark} AND turn > {mark} ORDER BY turn LIMIT {lanes_max}",
        )
        selects = [(first, [self._line, kind.encode(), int(turn)]) for kind, turn in after.items()]
        front: _Front = {kind: [] for kind in after}
        for kind, turn, user, waiting in union(self._connection, selects):
            front[Kind(kind.decode())].append((turn, UserId(user.decode()), waiting))
        for found in front.values():
            found.sort()
        return front

    def _read_jobs(
        self,
        counts: Mapping[Lane, int],
        known: KnownLine,
        model: WriteModel,
        required: RequiredRows,
    ) -> None:
        """Read the next jobs of lanes, up to a number of each."""
        mark = placeholder(self._connection)
        following = limited(
            self._connection,
            f"SELECT job FROM {jobs.name} WHERE generation = {mark} AND user_id = {mark}"
            f" AND kind = {mark} AND place >= {mark} AND (place > {mark} OR id > {mark})"
            " ORDER BY place, id LIMIT {count}",
        )
        selects = []
        for (user_id, kind), count in counts.items():
            lane = known.lanes.get((user_id, kind))
            place, job_id = _FIRST if lane is None or lane.read_to is None else lane.read_to
            bound = (self._jobs, user_id.encode(), kind.encode(), place, place, job_id)
            selects.append((following.replace("{count}", str(count)), bound))
        found: dict[Lane, list[WaitingJob]] = {}
        for (document,) in union(self._connection, selects):
            job = take_job(document, required, model)
            found.setdefault((job.user_id, job.kind), []).append(_waiting(job))
        for lane_read, waiting in found.items():
            known.read_jobs(lane_read, waiting)


_FIRST: Final[Order] = (-(2**31), 0)


def _waiting(job: Job) -> WaitingJob:
    return WaitingJob(job.id, job.user_id, job.kind, job.priority, job.is_suspect)


def _shares(front: _Front, jobs_max: int) -> dict[Lane, tuple[int, int]]:
    """Return for each lane how many jobs wait, and how many a claim can need at most."""
    by_user: dict[tuple[int, UserId], dict[Kind, int]] = {}
    for kind, found in front.items():
        for turn, user_id, waiting in found:
            by_user.setdefault((turn, user_id), {})[kind] = waiting
    in_turn = sorted(by_user)
    given = rounds([sum(by_user[user].values()) for user in in_turn], jobs_max)
    return {
        (user[1], kind): (waiting, min(waiting, max(1, share)))
        for user, share in zip(in_turn, given, strict=True)
        for kind, waiting in by_user[user].items()
    }
