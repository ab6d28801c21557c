"""Where a worker's jobs come from and their outcomes go: this process, or a server far away."""

from collections.abc import Sequence
from typing import Final, Protocol

from domain.commands import CompleteJob, FailJob, ReturnJob
from domain.errors import FairlogError, InvalidInput, LogTooNew, LogUnavailable, QueueFull
from domain.identifiers import JobId, Kind
from entrypoints.views import ClaimedJob

Outcome = CompleteJob | FailJob | ReturnJob
AttemptKey = tuple[JobId, int]  # a job and the number of its attempt, the fencing token

JOBS_A_CALL_MAX: Final = 1000
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
        self, max_jobs: int, kinds: Sequence[Kind], wait_seconds: float, claim_id: str
    ) -> Sequence[ClaimedJob]:
        """Up to JOBS_A_CALL_MAX jobs in fair order; waits that long for the first.

        The same `claim_id` again gives what the earlier answer gave, should it have been lost.
        Raises one of HOPELESS when no claim of this worker can go well.
        """

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        """What a claim whose answer never came has given, and nothing new."""

    async def heartbeat(self, held: Sequence[AttemptKey]) -> Sequence[JobId]:
        """Keep the leases; the jobs that are no longer this worker's."""

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        """Report outcomes; for each, in order, None once it is recorded, or why it is not.

        A Refusal: the attempt is no longer this worker's to end. One of AWAY: try again. Anything
        else: this very outcome cannot be recorded. The same outcome again changes nothing.
        """


__all__ = ["AWAY", "HOPELESS", "JOBS_A_CALL_MAX", "AttemptKey", "JobSource", "Outcome"]
