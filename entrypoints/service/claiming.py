"""Claims that wait for work, and the kinds that workers have requested lately.

A claim whose caller has gone must take no jobs, since they would not run until their leases end. So
a waiting claim ends when its caller disconnects, when the same claim is requested again, and when
the server stops.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from msgspec.structs import replace

from domain.decisions.answers import Claimed
from domain.language.commands import ClaimJobs
from domain.language.identifiers import KeyName, Kind, WorkerId
from entrypoints.feeds.work_signal import WorkSignal

LATELY_SECONDS: Final = 60.0  # a request that ended longer ago no longer counts
KINDS_KEPT_MAX: Final = 1000  # beyond this, older requests are dropped

_ClaimKey = tuple[KeyName | None, WorkerId, str]  # an API key, its worker and the claim_id
_NOTHING: Final = Claimed(())


class Demand:
    """The kinds of job that workers have requested from this process.

    `now` returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._requested: dict[Kind | None, float] = {}  # end of the latest claim; None: of any kind
        self._under_way: dict[Kind | None, int] = {}  # number of claims under way

    @contextlib.contextmanager
    def requesting(self, kinds: tuple[Kind, ...] | None) -> Iterator[None]:
        """Count a claim of these kinds as under way for the block. None: of any kind."""
        named: tuple[Kind | None, ...] = (None,) if kinds is None else kinds
        for kind in named:
            self._under_way[kind] = self._under_way.get(kind, 0) + 1
        try:
            yield
        finally:
            for kind in named:
                self._under_way[kind] -= 1
                if not self._under_way[kind]:
                    del self._under_way[kind]
                self._requested[kind] = self._now()
            if len(self._requested) > KINDS_KEPT_MAX:
                self._drop_old()

    def seconds_since(self, kind: Kind) -> float | None:
        """Return the seconds since the latest claim of the kind ended; 0 while one is under way.

        None: there was none in the last LATELY_SECONDS.
        """
        if self._under_way.get(kind) or self._under_way.get(None):
            return 0.0
        ended = [self._requested[one] for one in (kind, None) if one in self._requested]
        seconds = self._now() - max(ended) if ended else LATELY_SECONDS
        return seconds if seconds < LATELY_SECONDS else None

    def _drop_old(self) -> None:
        """Keep the latest requests, at most half of the maximum, that still count."""
        oldest = self._now() - LATELY_SECONDS
        latest = sorted(self._requested.items(), key=lambda entry: -entry[1])[: KINDS_KEPT_MAX // 2]
        self._requested = {kind: ended for kind, ended in latest if ended > oldest}


class Claiming:
    """The claims of one process. `decide` sends a claim to the writer."""

    def __init__(self, decide: Callable[[ClaimJobs], Awaitable[Claimed]], work: WorkSignal) -> None:
        self.demand = Demand()
        self._decide = decide
        self._work = work
        self._named: dict[_ClaimKey, asyncio.Event] = {}  # under way; set when requested again

    async def claim(
        self, command: ClaimJobs, wait_seconds: float, unwanted: asyncio.Event | None = None
    ) -> Claimed:
        """Return jobs in fair order, and wait up to `wait_seconds` for the first one.

        Returns none when `unwanted` is set or the server stops.
        """
        unwanted = unwanted or asyncio.Event()
        with (
            self.demand.requesting(command.kinds),
            self._replacing_earlier(command, unwanted),
            self._work.claimant(command.kinds, command.max_jobs) as claimant,
        ):
            deadline = time.monotonic() + wait_seconds
            while not unwanted.is_set():
                self._work.looks(claimant)
                left = deadline - time.monotonic()
                claimed = await self._decide(replace(command, may_wait=left > 0))
                self._work.has_looked(claimant, is_served=bool(claimed.jobs))
                if claimed.is_cut_short and not claimed.jobs:
                    continue  # the jobs that were read had expired, and no longer wait
                if claimed.jobs or claimed.is_repeated or left <= 0:
                    return claimed
                if not await self._work.wait(claimant, left, unwanted):
                    break
            if unwanted.is_set() or command.claim_id is None or command.server is not None:
                return _NOTHING
            # Record that the answer is empty, so that a repeated claim gets the same answer.
            return await self._decide(replace(command, max_jobs=0))

    @contextlib.contextmanager
    def _replacing_earlier(self, command: ClaimJobs, unwanted: asyncio.Event) -> Iterator[None]:
        """End an earlier request of the same claim: its caller no longer waits for it."""
        if command.claim_id is None:
            yield
            return
        claim = command.key_name, command.worker, command.claim_id
        if earlier := self._named.get(claim):
            earlier.set()
        self._named[claim] = unwanted
        try:
            yield
        finally:
            if self._named.get(claim) is unwanted:
                del self._named[claim]
