"""Reads more of the stored line for a claim: lanes in the order of the line, and their jobs.

The stored rows have to be current: the writer saves its changes before it reads them. What was read
stays in memory (`domain.fairness.known_line`), so more is read than one claim needs.
"""

from collections.abc import Mapping, Sequence
from typing import Final

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
LANES_PER_READ_MIN: Final = 100  # of each queue, if these are few
LANES_PER_READ_MAX: Final = 1_000  # of all queues; but at least `LANES_PER_QUEUE_MIN` of each
LANES_PER_QUEUE_MIN: Final = 2
USERS_PER_READ_MIN: Final = 500  # whose first jobs are read with their lanes
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
        lanes_max = _lanes_per_queue(unread)
        front, next_kinds = self._lanes_and_kinds(unread, known, lanes_max)
        if unread.more_kinds:  # the claim is decided again when they are in memory
            _note_kinds(known, next_kinds)
            required.kinds.update(next_kinds)
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

    def _lanes_and_kinds(
        self, unread: Unread, known: KnownLine, lanes_max: int
    ) -> tuple[_Front, list[Kind]]:
        """Return for each unread queue its first lanes beyond the horizon; and if there may be
        unread kinds, the next ones by name that have waiting jobs. All by one statement.
        """
        mark = placeholder(self._connection)
        following = limited(
            self._connection,
            f"SELECT waits_as, NULL AS turn, NULL AS user_id, 0 AS waiting FROM {kinds.name}"
            f" WHERE generation = {mark} AND waits_as > {mark}"
            f" ORDER BY waits_as LIMIT {KINDS_PER_READ_MAX}",
        )
        first = limited(
            self._connection,
            f"SELECT queue, turn, user_id, waiting FROM {lanes.name} WHERE generation = {mark}"
            f" AND queue = {mark} AND turn > {mark} ORDER BY turn LIMIT {lanes_max}",
        )
        selects: list[tuple[str, list[object]]] = [
            (first, [self._line, queue.encode(), int(known.horizon(queue)).to_bytes(ORDER_BYTES)])
            for queue in sorted(unread.queues)
        ]
        if unread.more_kinds:
            selects.append((following, [self._line, known.last_kind.encode()]))
        front: _Front = {queue: [] for queue in unread.queues}
        next_kinds: list[Kind] = []
        for name, turn, user, waiting in union(self._connection, selects):
            if turn is None:
                next_kinds.append(Kind(name.decode()))
            else:
                lane = (int.from_bytes(turn), UserId(user.decode()), waiting)
                front[QueueName(name.decode())].append(lane)
        for found in front.values():
            found.sort()
        return front, next_kinds

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


def _lanes_per_queue(unread: Unread) -> int:
    """Return how many lanes of each queue are read: of many queues a few, of others more."""
    most = max(unread.jobs, LANES_PER_READ_MIN)
    fair = LANES_PER_READ_MAX // max(1, len(unread.queues))
    return max(LANES_PER_QUEUE_MIN, min(most, fair))


def _note_kinds(known: KnownLine, next_kinds: Sequence[Kind]) -> None:
    known.has_read_kinds = True
    known.has_more_kinds = len(next_kinds) == KINDS_PER_READ_MAX
    known.last_kind = max([known.last_kind, *next_kinds], key=str.encode)


def _waiting(job: Job) -> WaitingJob:
    return WaitingJob(job.id, job.user_id, job.kind, job.priority, job.is_suspect, job.resources)


def _shares(front: _Front, jobs_max: int) -> dict[Lane, tuple[int, int]]:
    """Return for each lane how many jobs wait, and how many a claim can need at most."""
    by_user: dict[tuple[int, UserId], dict[QueueName, int]] = {}
    for queue, found in front.items():
        for order, user_id, waiting in found:
            by_user.setdefault((order, user_id), {})[queue] = waiting
    in_turn = sorted(by_user)[: max(jobs_max, USERS_PER_READ_MIN)]
    given = rounds([sum(by_user[user].values()) for user in in_turn], jobs_max)
    return {
        (user[1], queue): (waiting, min(waiting, max(1, share)))
        for user, share in zip(in_turn, given, strict=True)
        for queue, waiting in by_user[user].items()
    }
