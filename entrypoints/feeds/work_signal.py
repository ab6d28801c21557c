"""Waking the claims that wait for work: at once for what this process writes, soon for any other.

Only claims of the kinds that have more to do are woken, those that have waited longest first, and
as many as there are jobs for them: a claim that is woken in vain costs the writer as much as one
that is served. Whoever was woken and asks for nothing after all passes it on.

What other processes wrote is seen by one small query, asked a few times a second for all who wait,
and by nobody when nobody does. It asks how many jobs wait, not what is new, and now and then where
nothing is new either: so no claim is forgotten, whatever was missed. Of more than
KINDS_PER_LOOK_MAX kinds it asks in turn, so that it costs no more.
"""

import asyncio
import contextlib
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from adapters.supervision import Part, keep_running
from adapters.writer.writer import BatchWritten
from domain.language.identifiers import Kind

POLL_SECONDS: Final = 0.25
POLLS_PER_LOOK: Final = 8  # at how many jobs wait, although nobody has written anything
KINDS_PER_LOOK_MAX: Final = 1000  # of very many a poll looks at the next ones, in turn
# Of those that may wait behind a cap; each claim that is served wakes one more.
JOBS_PER_LOOK_MAX: Final = 8

Work = Mapping[Kind | None, int]  # jobs waiting by kind; None: of any kind
ReadWork = Callable[[Collection[Kind | None]], Awaitable[Work]]


class Claimant:
    """A claim that may have to wait, of so many jobs of these kinds; None: of any."""

    def __init__(self, kinds: Iterable[Kind] | None, jobs_max: int) -> None:
        self.kinds: tuple[Kind | None, ...] = (None,) if kinds is None else tuple(kinds)
        self.jobs_max = max(1, jobs_max)
        self.turn = 0  # the lower, the sooner
        self.news = asyncio.Event()  # there may be work that it has not asked for yet
        self.woken_for: Kind | None = None
        self.owes = False  # it was woken for work, and has had no answer since
        self.is_among_many = False  # there may be more work than claims were woken for


class WorkSignal:
    """One a process. `read_position` asks the log for its latest position, `read_work` how many
    jobs there are for claims of these kinds.
    """

    def __init__(
        self,
        read_position: Callable[[], Awaitable[int]],
        read_work: ReadWork | None = None,
        part: Part | None = None,
    ) -> None:
        self._part = Part("work_news") if part is None else part
        self._read_position = read_position
        self._read_work = read_work or _unknown
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen = 0  # up to this position, whoever waits has heard of all work
        self._turns = itertools.count(1)
        self._claimants: dict[Kind | None, OrderedDict[Claimant, None]] = {}
        self._unlooked: deque[Kind | None] = deque()  # whose turn in a round of looks is to come
        self._round_from = 0  # position at which the round began
        self._waiting = 0
        self._is_stopping = False
        self._poll: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call it on the loop on which others will wait."""
        self._loop = asyncio.get_running_loop()

    def batch_written(self, batch: BatchWritten) -> None:
        """Observes the writer; called in its thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closed just now
                loop.call_soon_threadsafe(
                    self._advance, batch.position, sum(batch.events.values()), batch.new_work
                )

    @contextlib.contextmanager
    def claimant(self, kinds: Iterable[Kind] | None, jobs_max: int) -> Iterator[Claimant]:
        """While a claim is under way."""
        claimant = Claimant(kinds, jobs_max)
        try:
            yield claimant
        finally:
            self._remove(claimant)
            if claimant.owes:
                self._wake(claimant.woken_for, 1, among_many=claimant.is_among_many)

    def looks(self, claimant: Claimant) -> None:
        """It asks for work now: from here on it is told when there is more."""
        claimant.news.clear()
        claimant.turn = next(self._turns)
        for kind in claimant.kinds:
            self._claimants.setdefault(kind, OrderedDict())[claimant] = None

    def has_looked(self, claimant: Claimant, *, is_served: bool) -> None:
        """It has its answer."""
        claimant.owes = claimant.news.is_set()  # meanwhile, and the answer may be from before
        if is_served and claimant.is_among_many:
            self._wake(claimant.woken_for, 1, among_many=True)

    async def wait(
        self, claimant: Claimant, seconds: float, unwanted: asyncio.Event | None = None
    ) -> bool:
        """Returns True when there may be work; False when the time went by without, when the server
        stops, and when `unwanted` is set: nobody waits for the answer any more.
        """
        if self._is_stopping:
            return False
        self._waiting += 1
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(
                keep_running(self._part, self._poll_others), name="work-signal"
            )
        both = (claimant.news, unwanted)
        awaited = [asyncio.ensure_future(one.wait()) for one in both if one is not None]
        try:
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting -= 1
            for one in awaited:
                one.cancel()
        return (
            claimant.news.is_set()
            and not self._is_stopping
            and (unwanted is None or not unwanted.is_set())
        )

    def release(self) -> None:
        """The server stops: whoever waits has their answer now, and nobody waits from here on."""
        self._is_stopping = True
        for claimants in self._claimants.values():
            for claimant in claimants:
                claimant.news.set()

    async def stop(self) -> None:
        self.release()
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll

    def _advance(self, position: int, events: int, new_work: Mapping[Kind, int]) -> None:
        if position - events <= self._seen:  # else another process wrote before it
            self._seen = max(self._seen, position)
        for kind, jobs in new_work.items():
            self._wake(kind, jobs)

    def _wake(self, kind: Kind | None, jobs: int, *, among_many: bool = False) -> None:
        """Claims for so many jobs of the kind; None: claims of any kind."""
        while jobs > 0 and (claimant := self._next(kind)) is not None:
            self._remove(claimant)
            claimant.news.set()
            claimant.owes, claimant.woken_for = True, kind
            claimant.is_among_many = among_many
            jobs -= claimant.jobs_max

    def _next(self, kind: Kind | None) -> Claimant | None:
        """Who waits longest of those that would take the kind."""
        queues = (self._claimants[one] for one in {kind, None} if one in self._claimants)
        return min((next(iter(one)) for one in queues), key=lambda one: one.turn, default=None)

    def _remove(self, claimant: Claimant) -> None:
        for kind in claimant.kinds:
            queue = self._claimants.get(kind)
            if queue is not None:
                queue.pop(claimant, None)
                if not queue:
                    del self._claimants[kind]

    async def _poll_others(self) -> None:
        polls = 0
        while self._waiting:
            await asyncio.sleep(POLL_SECONDS)
            polls += 1
            self._part.begins()
            position = await self._read_position()
            if not self._unlooked and (position > self._seen or polls % POLLS_PER_LOOK == 0):
                self._unlooked.extend(self._claimants)
                self._round_from = position
            if self._unlooked:
                await self._look()
            self._part.works()
        self._part.works()  # nobody waits

    async def _look(self) -> None:
        """Go on with the round; an error leaves it where it was."""
        kinds = list(itertools.islice(self._unlooked, KINDS_PER_LOOK_MAX))
        work = await self._read_work([kind for kind in kinds if kind in self._claimants])
        for _ in kinds:
            self._unlooked.popleft()
        if not self._unlooked:
            self._seen = max(self._seen, self._round_from)
        for kind, jobs in work.items():
            self._wake(kind, min(jobs, JOBS_PER_LOOK_MAX), among_many=True)


async def _unknown(kinds: Collection[Kind | None]) -> Work:
    """For each kind there may be some."""
    return dict.fromkeys(kinds, 1)
