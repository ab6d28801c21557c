"""The port through which a worker claims jobs and reports outcomes, locally or over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from fairlog_client.worker.outcomes import AttemptKey, ClaimedJob, Outcome, ProgressReport

JOBS_PER_CALL_MAX: Final = 1000


class SourceError(Exception):
    """A call of a job source failed. The message is a sentence for people."""


class SourceAway(SourceError):
    """The same call may succeed later. The first one may have taken effect."""


class SourceRefused(SourceError):
    """The same call would fail again."""


class KindsRefused(SourceRefused):
    """The worker may not claim all of the kinds. `allowed` are those that it may claim."""

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class AttemptLost(SourceError):
    """The attempt is no longer this worker's."""


class JobSource(Protocol):
    """Every call may raise `SourceAway` and may be cancelled. Each may be repeated safely."""

    @property
    def lease_seconds(self) -> float:
        """The length of a lease without a heartbeat; exact after the first claim."""

    async def claim(
        self, max_jobs: int, kinds: Sequence[str], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        """Return up to `max_jobs` jobs in fair order, at most JOBS_PER_CALL_MAX.

        Waits up to `wait_seconds` for the first. The first `begins` of them begin at once; a
        heartbeat reports when another one does. Repeated with the same `claim_id`, it returns what
        the first call returned, in case that answer was lost. Raises `SourceRefused`
        when this worker can make no claim, and `KindsRefused` when it can make one of other kinds.
        """

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        """Return the jobs of a claim whose answer was lost, and claim no new ones."""

    async def heartbeat(
        self,
        held: Sequence[AttemptKey],
        begun: Sequence[AttemptKey],
        progress: Mapping[AttemptKey, ProgressReport],
    ) -> Sequence[AttemptKey]:
        """Extend the leases of `held`, and report which handlers have begun, and the progress of
        others of them. Returns the lost attempts.
        """

    async def wait_for_cancellation(
        self, held: Sequence[AttemptKey], seconds: float
    ) -> Sequence[AttemptKey]:
        """Wait up to `seconds` for an attempt of this worker to be cancelled, and return the lost
        ones of `held`; at once if there are any. Extends the leases of the others.
        """

    async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        """Report outcomes. Returns for each, in order, None if it is recorded, else an error.

        `AttemptLost`: it is of no use any more. `SourceAway`: try again. `SourceRefused`: this
        outcome can never be recorded. Reporting an outcome twice changes nothing.
        """
