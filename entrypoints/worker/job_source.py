"""The port through which a worker claims jobs and reports outcomes, locally or over HTTP."""

from collections.abc import Sequence
from typing import Final, Protocol

from domain.language.commands import CompleteJob, FailJob, ReturnJob
from domain.language.errors import FairlogError, InvalidInput, LogTooNew, LogUnavailable, QueueFull
from domain.language.identifiers import JobId, Kind
from entrypoints.service.views import ClaimedJob

Outcome = CompleteJob | FailJob | ReturnJob
AttemptKey = tuple[JobId, int]  # a job and the number of its attempt, which is the fencing token

JOBS_PER_CALL_MAX: Final = 1000
# Errors after which the same call may succeed later. The first one may have taken effect.
AWAY: Final[tuple[type[FairlogError], ...]] = (LogUnavailable, QueueFull)
# Errors after which the same call would fail again.
HOPELESS: Final[tuple[type[FairlogError], ...]] = (InvalidInput, LogTooNew)


class JobSource(Protocol):
    """Every call may raise one of AWAY and may be cancelled. Each may be repeated safely."""

    @property
    def lease_seconds(self) -> float:
        """The length of a lease without a heartbeat; exact after the first claim."""

    async def claim(
        self, max_jobs: int, kinds: Sequence[Kind], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        """Return up to `max_jobs` jobs in fair order, at most JOBS_PER_CALL_MAX.

        Waits up to `wait_seconds` for the first. The first `begins` of them begin at once; a
        heartbeat reports when another one does. Repeated with the same `claim_id`, it returns what
        the first call returned, in case that answer was lost. Raises one of HOPELESS when this
        worker can make no claim.
        """

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        """Return the jobs of a claim whose answer was lost, and claim no new ones."""

    async def heartbeat(
        self, held: Sequence[AttemptKey], begun: Sequence[AttemptKey]
    ) -> Sequence[AttemptKey]:
        """Extend the leases of `held` and report `begun` handlers. Returns the lost attempts."""

    async def wait_for_cancellation(
        self, held: Sequence[AttemptKey], seconds: float
    ) -> Sequence[AttemptKey]:
        """Wait up to `seconds` for an attempt of this worker to be cancelled, and return the lost
        ones of `held`; at once if there are any. Extends the leases of the others.
        """

    async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        """Report outcomes. Returns for each, in order, None if it is recorded, else an error.

        A Refusal: the attempt is no longer this worker's. One of AWAY: try again. Any other error:
        this outcome cannot be recorded. Reporting an outcome twice changes nothing.
        """
