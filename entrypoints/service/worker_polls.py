"""The workers that have polled lately, at this server or at another one.

A poll is a claim or a heartbeat. A worker lives while it polls: an idle one waits in a claim, a
busy one renews its leases.
"""

import contextlib
import difflib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from adapters.servers.worker_polls import KEPT_SECONDS, StoredPoll, read_polls, replace_polls
from domain.language.callbacks import CALLBACK_KIND
from domain.language.identifiers import Kind, ServerId, WorkerId
from domain.language.moments import to_micros

LATELY_SECONDS: Final = 60.0  # an idle worker that has not polled for longer counts as dead
WORKERS_KEPT_MAX: Final = 1000  # in memory; beyond it, those whose polls are oldest are dropped
SHARE_SECONDS: Final = 5.0  # between two checks whether other servers have to be told
_UNCHANGED_SECONDS: Final = 15.0  # between two writes while the same workers poll
_MICROS: Final = 1_000_000


class WorkerPoll(Struct, frozen=True):
    """The latest poll of a worker."""

    worker: WorkerId
    kinds: frozenset[Kind] | None  # that it asked for; None: any
    seconds_ago: float  # 0 while it waits

    def asks_for(self, kind: Kind) -> bool:
        """Return True if it is given jobs of the kind; those of callbacks only by its name."""
        if self.kinds is None:
            return kind != CALLBACK_KIND
        return kind in self.kinds


class _Polls:
    """The polls of one worker at this process. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.kinds: frozenset[Kind] | None = frozenset()
        self.under_way = 0  # claims
        self.ended = 0.0  # when the latest poll ended


class WorkerPolls:
    """One per process. Polls are noted on its event loop; any thread may read.

    `now` returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._workers: dict[WorkerId, _Polls] = {}
        self._shared: frozenset[tuple[WorkerId, frozenset[Kind] | None]] = frozenset()
        self._shared_at = float("-inf")

    @contextlib.contextmanager
    def claiming(self, worker: WorkerId, kinds: Collection[Kind] | None) -> Iterator[None]:
        """Count a claim of these kinds as a poll that lasts as long as the block.

        None: any. A claim of no kind asks for earlier jobs alone, and leaves the kinds as they are.
        """
        polls = self._polls_of(worker)
        if kinds is None or kinds:
            polls.kinds = None if kinds is None else frozenset(kinds)
        polls.under_way += 1
        try:
            yield
        finally:
            polls.under_way -= 1
            polls.ended = self._now()

    def note(self, worker: WorkerId) -> None:
        """Note a heartbeat."""
        self._polls_of(worker).ended = self._now()

    def known(self) -> list[WorkerPoll]:
        """Return the latest polls at this process."""
        now = self._now()
        return [
            WorkerPoll(worker, polls.kinds, 0.0 if polls.under_way else now - polls.ended)
            for worker, polls in list(self._workers.items())
        ]

    def read(self, connection: Connection, now: datetime) -> Mapping[WorkerId, WorkerPoll]:
        """Return the latest poll of each worker at any server, by worker. `now`: the log's time."""
        micros = to_micros(now)
        stored = (
            WorkerPoll(
                one.worker,
                None if one.kinds is None else frozenset(one.kinds),
                max(0, micros - one.polled_at) / _MICROS,
            )
            for one in read_polls(connection)
        )
        latest: dict[WorkerId, WorkerPoll] = {}
        for poll in (*self.known(), *stored):
            if poll.worker not in latest or poll.seconds_ago < latest[poll.worker].seconds_ago:
                latest[poll.worker] = poll
        return latest

    def share(self, database: Database, log: SqlEventLog, server: ServerId) -> None:
        """Write the polls for other servers, if workers or their kinds have changed or the stored
        times are old. Blocks. Raises `LogUnavailable`.
        """
        known = [one for one in self.known() if one.seconds_ago < KEPT_SECONDS]
        workers = frozenset((one.worker, one.kinds) for one in known)
        began = self._now()
        is_fresh = not workers or began - self._shared_at < _UNCHANGED_SECONDS
        if workers == self._shared and is_fresh:
            return
        with database.write(is_patient=False) as connection:
            now = to_micros(log.now(connection))
            polls = [
                StoredPoll(
                    one.worker,
                    None if one.kinds is None else sorted(one.kinds),
                    now - int(one.seconds_ago * _MICROS),
                )
                for one in known
            ]
            replace_polls(connection, server, polls, now)
        self._shared, self._shared_at = workers, began

    def _polls_of(self, worker: WorkerId) -> _Polls:
        polls = self._workers.get(worker)
        if polls is None:
            if len(self._workers) >= WORKERS_KEPT_MAX:
                self._drop_oldest()
            polls = self._workers[worker] = _Polls()
        return polls

    def _drop_oldest(self) -> None:
        """Drop the older half of the workers that wait in no claim."""
        idle = [
            (polls.ended, worker) for worker, polls in self._workers.items() if not polls.under_way
        ]
        for _, worker in sorted(idle)[: WORKERS_KEPT_MAX // 2]:
            del self._workers[worker]


def is_alive(seconds_silent: float, lease_seconds: float, *, holds_jobs: bool) -> bool:
    """Return True if a worker whose latest sign is so old counts as alive.

    A busy worker is heard when it renews its leases, so it has as long as a lease.
    """
    allowed = max(LATELY_SECONDS, lease_seconds) if holds_jobs else LATELY_SECONDS
    return seconds_silent < allowed


def nearest_kind(kind: Kind, polls: Iterable[WorkerPoll]) -> Kind | None:
    """Return the kind most like a mistyped one among those that workers ask for."""
    asked = sorted({one for poll in polls for one in poll.kinds or ()} - {kind})
    near = difflib.get_close_matches(kind, asked, n=1)
    return Kind(near[0]) if near else None
