"""Claims that wait for work.

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
from domain.language.identifiers import KeyName, WorkerId
from entrypoints.feeds.work_signal import WorkSignal
from entrypoints.service.worker_polls import WorkerPolls

_ClaimKey = tuple[KeyName | None, WorkerId, str]  # an API key, its worker and the claim_id
_PAUSE_SECONDS_MIN: Final = 0.01  # before a claim looks again because of the time
_NOTHING: Final = Claimed(())


class Claiming:
    """The claims of one process. `decide` sends a claim to the writer."""

    def __init__(
        self,
        decide: Callable[[ClaimJobs], Awaitable[Claimed]],
        work: WorkSignal,
        polls: WorkerPolls,
    ) -> None:
        self._polls = polls
        self._decide = decide
        self._work = work
        self._named: dict[_ClaimKey, asyncio.Event] = {}  # under way; set when requested again

    async def claim(
        self, command: ClaimJobs, wait_seconds: float, unwanted: asyncio.Event | None = None
    ) -> Claimed:
        """Return jobs in fair order, and wait up to `wait_seconds` for the first one.

        Returns none when `unwanted` is set or the server stops. A claim of at most 0 jobs, which
        asks only for those of an earlier one, does not wait.
        """
        wait_seconds = wait_seconds if command.max_jobs else 0.0
        unwanted = unwanted or asyncio.Event()
        with (
            self._polls.claiming(command.worker, command.kinds),
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
                resumes = claimed.resumes_in_seconds
                pause = left if resumes is None else min(left, max(_PAUSE_SECONDS_MIN, resumes))
                is_woken = await self._work.wait(claimant, pause, unwanted)
                if not is_woken and (pause == left or self._work.is_stopping):
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
