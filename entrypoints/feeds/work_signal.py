"""Wake claims that wait for work: at once for what this process writes, soon for other processes.

Only claims of kinds that have new work are woken, those that have waited longest first, and only
as many as there are jobs for them: a claim that is woken in vain costs the writer as much as one
that is served. A claim that was woken and takes no job wakes the next.

After other processes have written, one small query for all who wait asks how many jobs there are
for them, at most a few times a second. It is asked every LOOK_SECONDS in any case, so that no claim
is forgotten, whatever was missed. More than KINDS_PER_LOOK_MAX kinds are asked for in turn, so that
they cost no more.
"""

import asyncio
import contextlib
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from adapters.supervision import Part
from adapters.writer.write_path import BatchWritten
from domain.language.identifiers import Kind
from entrypoints.feeds.log_watcher import LogWatcher

LOOK_SECONDS: Final = 4.0  # between two looks although nobody has written anything
KINDS_PER_LOOK_MAX: Final = 1000  # per query; further kinds are read by the next one
# More may wait behind a cap; each claim that is served wakes one more.
JOBS_PER_LOOK_MAX: Final = 8

Work = Mapping[Kind | None, int]  # jobs waiting by kind; None: of any kind
ReadWork = Callable[[Collection[Kind | None]], Awaitable[Work]]


class Claimant:
    """A claim of up to `jobs_max` jobs of these kinds that may have to wait; None: of any kind."""

    def __init__(self, kinds: Iterable[Kind] | None, jobs_max: int) -> None:
        self.kinds: tuple[Kind | None, ...] = (None,) if kinds is None else tuple(kinds)
        self.jobs_max = max(1, jobs_max)
        self.turn = 0  # the lower, the sooner
        self.news = asyncio.Event()  # set when there may be work that it has not asked for
        self.woken_for: Kind | None = None
        self.owes = False  # it was woken, and has had no answer since
        self.is_among_many = False  # there may be more work than claims were woken for


class WorkSignal:
    """One per process. `read_work` reads how many jobs there are for claims of these kinds."""

    def __init__(
        self, watcher: LogWatcher, read_work: ReadWork | None = None, part: Part | None = None
    ) -> None:
        self._watcher = watcher
        self._read_work = read_work or _unknown
        self._others = watcher.subscribe()
        watcher.observe(self.batch_written)
        self._looking = watcher.loop(Part("work_news") if part is None else part, self._run)
        self._seen = 0  # up to this position, all who wait know of the work of other processes
        self._turns = itertools.count(1)
        self._claimants: dict[Kind | None, OrderedDict[Claimant, None]] = {}
        self._unlooked: deque[Kind | None] = deque()  # kinds still to be read in this round
        self._round_from = 0  # position at which the round began

    @property
    def waiting(self) -> int:
        """Number of claims that wait."""
        return self._looking.users

    @property
    def is_stopping(self) -> bool:
        """True if the server stops: nobody waits any more."""
        return self._watcher.is_stopping

    def batch_written(self, batch: BatchWritten) -> None:
        """Wake claims for the work of a batch of this process. On the event loop."""
        for kind, jobs in batch.new_work.items():
            self._wake(kind, jobs)

    @contextlib.contextmanager
    def claimant(self, kinds: Iterable[Kind] | None, jobs_max: int) -> Iterator[Claimant]:
        """Register a claim for the block."""
        claimant = Claimant(kinds, jobs_max)
        try:
            yield claimant
        finally:
            self._remove(claimant)
            if claimant.owes:
                self._wake(claimant.woken_for, 1, among_many=claimant.is_among_many)

    def looks(self, claimant: Claimant) -> None:
        """Note that it asks for work now; later work wakes it."""
        claimant.news.clear()
        claimant.turn = next(self._turns)
        for kind in claimant.kinds:
            self._claimants.setdefault(kind, OrderedDict())[claimant] = None

    def has_looked(self, claimant: Claimant, *, is_served: bool) -> None:
        """Note that it has its answer."""
        claimant.owes = claimant.news.is_set()  # meanwhile, and the answer may be from before
        if is_served and claimant.is_among_many:
            self._wake(claimant.woken_for, 1, among_many=True)

    async def wait(
        self, claimant: Claimant, seconds: float, unwanted: asyncio.Event | None = None
    ) -> bool:
        """Return True when there may be work; False after `seconds`, when the server stops, and
        when `unwanted` is set because nobody waits for the answer any more.
        """
        if self._watcher.is_stopping:
            return False
        both = (claimant.news, unwanted)
        awaited = [asyncio.ensure_future(one.wait()) for one in both if one is not None]
        try:
            with self._looking.needed():
                await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in awaited:
                one.cancel()
        return (
            claimant.news.is_set()
            and not self._watcher.is_stopping
            and (unwanted is None or not unwanted.is_set())
        )

    def release(self) -> None:
        """Answer all who wait: the server, and with it the watcher, has stopped."""
        for claimants in self._claimants.values():
            for claimant in claimants:
                claimant.news.set()

    def _wake(self, kind: Kind | None, jobs: int, *, among_many: bool = False) -> None:
        """Wake claims for `jobs` jobs of a kind; None: claims of any kind."""
        while jobs > 0 and (claimant := self._next(kind)) is not None:
            self._remove(claimant)
            claimant.news.set()
            claimant.owes, claimant.woken_for = True, kind
            claimant.is_among_many = among_many
            jobs -= claimant.jobs_max

    def _next(self, kind: Kind | None) -> Claimant | None:
        """Return the claim that has waited longest of those that would take the kind."""
        queues = (self._claimants[one] for one in {kind, None} if one in self._claimants)
        return min((next(iter(one)) for one in queues), key=lambda one: one.turn, default=None)

    def _remove(self, claimant: Claimant) -> None:
        for kind in claimant.kinds:
            queue = self._claimants.get(kind)
            if queue is not None:
                queue.pop(claimant, None)
                if not queue:
                    del self._claimants[kind]

    async def _run(self) -> None:
        while self._looking.is_needed:
            if self._unlooked:
                await self._watcher.pause(self._watcher.poll_seconds)
            else:
                await self._others.wait_beyond(self._seen, LOOK_SECONDS)
                self._unlooked.extend(self._claimants)
                self._round_from = self._others.value
            self._looking.part.begins()
            await self._look()
            self._looking.part.works()

    async def _look(self) -> None:
        """Continue the round; an error leaves it where it was."""
        kinds = list(itertools.islice(self._unlooked, KINDS_PER_LOOK_MAX))
        work = await self._read_work([kind for kind in kinds if kind in self._claimants])
        for _ in kinds:
            self._unlooked.popleft()
        if not self._unlooked:
            self._seen = max(self._seen, self._round_from)
        for kind, jobs in work.items():
            self._wake(kind, min(jobs, JOBS_PER_LOOK_MAX), among_many=True)


async def _unknown(kinds: Collection[Kind | None]) -> Work:
    """Report that each kind may have work."""
    return dict.fromkeys(kinds, 1)
