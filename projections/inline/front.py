"""Reads more of the stored line for a claim: lanes in the order of the line, and their jobs.

The stored rows have to be current: the writer saves its changes before it reads them. What was read
stays in memory (`domain.fairness.known_line`), so more is read than one claim needs.
"""

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.known_line import KnownLine, Order, Unread, WaitingJob
from domain.fairness.queues import Lane, QueueName
from domain.fairness.serve import rounds
from domain.fairness.strides import ORDER_BYTES
from domain.jobs.job import Job
from domain.language.identifiers import Kind, UserId
from projections.inline.jobs import jobs, lane_key, take_job
from projections.inline.line import kinds, lanes
from projections.storage.rows import limited, placeholder, union

KINDS_PER_READ_MAX: Final = 250  # SQLite allows 500 selects in a UNION
LANES_PER_READ_MIN: Final = 100  # of each queue
JOBS_PER_READ_MIN: Final = 200  # of all lanes together

# (sort key of the user, user, jobs waiting) of the lanes of each queue
_Front = dict[QueueName, list[tuple[int, UserId, int]]]


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
        if unread.more_kinds:  # the claim is decided again when they are in memory
            required.kinds.update(self._next_kinds(known))
        lanes_max = max(unread.jobs, LANES_PER_READ_MIN)
        front = self._front({one: known.horizon(one) for one in sorted(unread.queues)}, lanes_max)
        for queue, found in front.items():
            known.read_users(queue, found[-1][0] if len(found) == lanes_max else None)
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
        """Return the next kinds by name that have waiting jobs."""
        rows = self._connection.execute(
            sa.select(kinds.c.kind)
            .where(kinds.c.generation == self._line, kinds.c.waits_as > known.last_kind.encode())
            .order_by(kinds.c.waits_as)
            .limit(KINDS_PER_READ_MAX)
        )
        found = [Kind(bytes(kind).decode()) for (kind,) in rows]
        known.has_read_kinds = True
        known.has_more_kinds = len(found) == KINDS_PER_READ_MAX
        if found:
            known.last_kind = found[-1]
        return found

    def _front(self, after: Mapping[QueueName, float], lanes_max: int) -> _Front:
        """Return for each queue its first lanes after a sort key of users."""
        mark = placeholder(self._connection)
        first = limited(
            self._connection,
            f"SELECT queue, turn, user_id, waiting FROM {lanes.name} WHERE generation = {mark}"
            f" AND queue = {mark} AND turn > {mark} ORDER BY turn LIMIT {lanes_max}",
        )
        selects = [
            (first, [self._line, queue.encode(), int(order).to_bytes(ORDER_BYTES)])
            for queue, order in after.items()
        ]
        front: _Front = {queue: [] for queue in after}
        for queue, turn, user, waiting in union(self._connection, selects):
            lane = (int.from_bytes(turn), UserId(user.decode()), waiting)
            front[QueueName(queue.decode())].append(lane)
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
            f"SELECT job FROM {jobs.name} WHERE generation = {mark} AND lane = {mark}"
            f" AND place >= {mark} AND (place > {mark} OR id > {mark})"
            " ORDER BY place, id LIMIT {count}",
        )
        selects = []
        for (user_id, queue), count in counts.items():
            lane = known.lanes.get((user_id, queue))
            place, job_id = _FIRST if lane is None or lane.read_to is None else lane.read_to
            bound = (self._jobs, lane_key(user_id.encode(), queue.encode()), place, place, job_id)
            selects.append((following.replace("{count}", str(count)), bound))
        found: dict[Lane, list[WaitingJob]] = {}
        for (document,) in union(self._connection, selects):
            job = take_job(document, required, model)
            waiting_job = _waiting(job)
            found.setdefault((job.user_id, waiting_job.queue), []).append(waiting_job)
        for lane_read, waiting in found.items():
            known.read_jobs(lane_read, waiting)


_FIRST: Final[Order] = (-(2**31), 0)


def _waiting(job: Job) -> WaitingJob:
    return WaitingJob(job.id, job.user_id, job.kind, job.priority, job.is_suspect, job.resources)


def _shares(front: _Front, jobs_max: int) -> dict[Lane, tuple[int, int]]:
    """Return for each lane how many jobs wait, and how many a claim can need at most."""
    by_user: dict[tuple[int, UserId], dict[QueueName, int]] = {}
    for queue, found in front.items():
        for order, user_id, waiting in found:
            by_user.setdefault((order, user_id), {})[queue] = waiting
    in_turn = sorted(by_user)
    given = rounds([sum(by_user[user].values()) for user in in_turn], jobs_max)
    return {
        (user[1], queue): (waiting, min(waiting, max(1, share)))
        for user, share in zip(in_turn, given, strict=True)
        for queue, waiting in by_user[user].items()
    }
