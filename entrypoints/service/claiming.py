"""Claims through this process: those that wait for work, and what kinds were asked for lately.

A claim whose caller has gone must take no jobs: nobody would work on them until their leases end.
So a waiting claim ends when its caller hangs up, when the same claim is asked again, and when the
server stops.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from msgspec.structs import replace

from domain.decisions.decide import Claimed
from domain.language.commands import ClaimJobs
from domain.language.identifiers import Kind, WorkerId
from entrypoints.feeds.work_signal import WorkSignal

LATELY_SECONDS: Final = 60.0
KINDS_KEPT_MAX: Final = 1000

_Id = tuple[WorkerId, str]  # a worker and its claim_id
_NOTHING: Final = Claimed(())


class Demand:
    """Which kinds workers have asked this process for. `now` gives seconds that only grow."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._asked: dict[Kind | None, float] = {}  # when a claim ended; None: for any kind
        self._asking: dict[Kind | None, int] = {}  # claims that wait now

    @contextlib.contextmanager
    def asking(self, kinds: tuple[Kind, ...] | None) -> Iterator[None]:
        """While a claim of these kinds is under way; None: of any."""
        named: tuple[Kind | None, ...] = (None,) if kinds is None else kinds
        for kind in named:
            self._asking[kind] = self._asking.get(kind, 0) + 1
        try:
            yield
        finally:
            for kind in named:
                self._asking[kind] -= 1
                if not self._asking[kind]:
                    del self._asking[kind]
                self._asked[kind] = self._now()
            if len(self._asked) > KINDS_KEPT_MAX:
                self._forget()

    def seconds_since(self, kind: Kind) -> float | None:
        """Since a worker last asked for the kind, 0 while one waits; None: not lately."""
        if self._asking.get(kind) or self._asking.get(None):
            return 0.0
        asked = [self._asked[one] for one in (kind, None) if one in self._asked]
        seconds = self._now() - max(asked) if asked else LATELY_SECONDS
        return seconds if seconds < LATELY_SECONDS else None

    def _forget(self) -> None:
        """Keep the latest half, of what is recent enough to count."""
        oldest = self._now() - LATELY_SECONDS
        latest = sorted(self._asked.items(), key=lambda entry: -entry[1])[: KINDS_KEPT_MAX // 2]
        self._asked = {kind: asked for kind, asked in latest if asked > oldest}


class Claiming:
    """One a process. `ask` has the writer decide a claim."""

    def __init__(self, ask: Callable[[ClaimJobs], Awaitable[Claimed]], work: WorkSignal) -> None:
        self.demand = Demand()
        self._ask = ask
        self._work = work
        self._named: dict[_Id, asyncio.Event] = {}  # claims under way: set when asked again

    async def claim(
        self, command: ClaimJobs, wait_seconds: float, unwanted: asyncio.Event | None = None
    ) -> Claimed:
        """Jobs in fair order; waits that long for the first, unless `unwanted` is set before."""
        unwanted = unwanted or asyncio.Event()
        with (
            self.demand.asking(command.kinds),
            self._in_place_of_earlier(command, unwanted),
            self._work.claimant(command.kinds, command.max_jobs) as claimant,
        ):
            deadline = time.monotonic() + wait_seconds
            while not unwanted.is_set():
                self._work.looks(claimant)
                left = deadline - time.monotonic()
                claimed = await self._ask(replace(command, may_wait=left > 0))
                self._work.has_looked(claimant, is_served=bool(claimed.jobs))
                if claimed.is_cut_short and not claimed.jobs:
                    continue  # what was looked at had expired and is out of the way now
                if claimed.jobs or claimed.is_repeated or left <= 0:
                    return claimed
                if not await self._work.wait(claimant, left, unwanted):
                    break
            if unwanted.is_set() or command.claim_id is None or command.server is not None:
                return _NOTHING
            return await self._ask(replace(command, max_jobs=0))  # asked again it is empty, too

    @contextlib.contextmanager
    def _in_place_of_earlier(self, command: ClaimJobs, unwanted: asyncio.Event) -> Iterator[None]:
        """Whoever asks the same again has given up the earlier request."""
        if command.claim_id is None:
            yield
            return
        claim = command.worker, command.claim_id
        if earlier := self._named.get(claim):
            earlier.set()
        self._named[claim] = unwanted
        try:
            yield
        finally:
            if self._named.get(claim) is unwanted:
                del self._named[claim]
