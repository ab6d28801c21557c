"""Where a worker's jobs come from and their outcomes go: this process, or a server far away."""

from collections.abc import Sequence
from typing import Final, Protocol

from domain.language.commands import CompleteJob, FailJob, ReturnJob
from domain.language.errors import FairlogError, InvalidInput, LogTooNew, LogUnavailable, QueueFull
from domain.language.identifiers import JobId, Kind
from entrypoints.service.views import ClaimedJob

Outcome = CompleteJob | FailJob | ReturnJob
AttemptKey = tuple[JobId, int]  # a job and the number of its attempt, the fencing token

JOBS_PER_CALL_MAX: Final = 1000
# Nothing of the question was wrong: ask again later. What became of it may be unknown.
AWAY: Final[tuple[type[FairlogError], ...]] = (LogUnavailable, QueueFull)
# Asked again, it would be refused again.
HOPELESS: Final[tuple[type[FairlogError], ...]] = (InvalidInput, LogTooNew)


class JobSource(Protocol):
    """Every call may raise one of AWAY, and may be cancelled; each is safe to make again."""

    @property
    def lease_seconds(self) -> float:
        """How long a claim holds without a heartbeat; certain once a claim has given jobs."""

    async def claim(
        self, max_jobs: int, kinds: Sequence[Kind], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        """Up to JOBS_PER_CALL_MAX jobs in fair order; waits that long for the first. So many of
        them begin at once; of the others a heartbeat says when they do.

        The same `claim_id` again gives what the earlier answer gave, should it have been lost.
        Raises one of HOPELESS when no claim of this worker can go well.
        """

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        """What a claim whose answer never came has given, and nothing new."""

    async def heartbeat(
        self, held: Sequence[AttemptKey], begun: Sequence[AttemptKey]
    ) -> Sequence[AttemptKey]:
        """Keep the leases, and say which handlers have begun; which are no longer this worker's."""

    async def listen(self, held: Sequence[AttemptKey], seconds: float) -> Sequence[AttemptKey]:
        """Wait that long for an attempt of this worker to be cancelled. Keeps the leases of `held`;
        what of it is lost already is the answer at once.
        """

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        """Report outcomes; for each, in order, None once it is recorded, or why it is not.

        A Refusal: the attempt is no longer this worker's to end. One of AWAY: try again. Anything
        else: this very outcome cannot be recorded. The same outcome again changes nothing.
        """


__all__ = ["AWAY", "HOPELESS", "JOBS_PER_CALL_MAX", "AttemptKey", "JobSource", "Outcome"]
