"""The answers to commands, which the writer gives once their events are on disk."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from domain.callbacks.callbacks import Callback
from domain.jobs.job import Job
from domain.language.events import LimitChanged, RateLimitDecided, ScheduleFired
from domain.language.identifiers import JobId, KeyName, PlanName, UserId
from domain.schedules.schedule import Schedule


class Submitted(Struct, frozen=True, tag=True):
    """The answer to SubmitJob."""

    job: Job  # the new one, or the first one with the same key
    decision: RateLimitDecided
    decided_at: datetime  # UTC, by the log's clock
    is_duplicate: bool  # the job existed already


class Claimed(Struct, frozen=True, tag=True):
    """The answer to ClaimJobs."""

    jobs: Sequence[Job]  # started, in fair order
    is_repeated: bool = False  # the claim_id was known: the jobs that it gave, or fewer
    is_cut_short: bool = False  # more jobs may wait than could be read in one batch
    # Seconds until more may start because of the time, as far as is known; None: not known.
    resumes_in_seconds: float | None = None


class LeasesHeld(Struct, frozen=True, tag=True):
    """The answer to ExtendLeases."""

    lease_expires_at: datetime  # UTC, the earliest end of a lease that is still held
    lost: Sequence[tuple[JobId, int]]  # (job, attempt) that the worker no longer holds


class JobUpdated(Struct, frozen=True, tag=True):
    """The answer to a command about one job: the job after it, changed or not."""

    job: Job


class JobsUpdated(Struct, frozen=True, tag=True):
    """The answer to EnforceDeadlines and RecoverJobs."""

    jobs: Sequence[Job]  # that changed
    has_more: bool = False  # the batch told some children of a job of its end, and not all


class LineWasUpdated(Struct, frozen=True, tag=True):
    """The answer to UpdateLine."""

    users: Sequence[UserId]  # of whom other jobs may start now


class LimitsSet(Struct, frozen=True, tag=True):
    """The answer to ChangeLimit."""

    event: LimitChanged  # not recorded if nothing changed


class PlanRemoved(Struct, frozen=True, tag=True):
    """The answer to DeletePlan."""

    plan: PlanName


class RefusalsRecorded(Struct, frozen=True, tag=True):
    """The answer to ReportRefusals and ReportWrongKeys."""

    count: int  # submissions or requests


class ClockAccepted(Struct, frozen=True, tag=True):
    """The answer to AcceptClock: the log's time follows the clock."""


class LossWasAccepted(Struct, frozen=True, tag=True):
    """The answer to AcceptLoss."""

    position: int  # of the event LossAccepted


class KeyChanged(Struct, frozen=True, tag=True):
    """The answer to CreateKey, RotateKey and RevokeKey."""

    name: KeyName


class ProjectionsSaved(Struct, frozen=True, tag=True):
    """The answer to SaveProjections."""


class ArchiveChanged(Struct, frozen=True, tag=True):
    """The answer to the commands of an archive: BeginArchive, ArchiveSegments, RewriteSegment,
    EraseArchivedBodies and CompleteArchive.
    """

    begun: int  # position of the latest ArchiveBegun; 0: there is none


class OutboxTaken(Struct, frozen=True, tag=True):
    """The answer to TakeOutbox. Rows that it does not name stay in the outbox."""

    submitted: Sequence[int] = ()  # ids of rows that are jobs now
    rejected: Sequence[tuple[int, str]] = ()  # (id, reason) of rows that cannot be jobs
    # (user, seconds until their window ends) of users over their limits; None: all users together.
    over_limit: Sequence[tuple[UserId | None, float]] = ()
    is_locked: bool = False  # nothing was read, since another transaction holds one of the rows


class ScheduleDecided(Struct, frozen=True, tag=True):
    """The answer to every command about a schedule."""

    schedule: Schedule | None  # after it; None: there is none
    run: ScheduleFired | None = None  # that was decided; None: none was


class CallbackDecided(Struct, frozen=True, tag=True):
    """The answer to every command about an endpoint of callbacks."""

    callback: Callback  # after it


Answer = (
    Submitted
    | Claimed
    | LeasesHeld
    | JobUpdated
    | JobsUpdated
    | LineWasUpdated
    | LimitsSet
    | PlanRemoved
    | RefusalsRecorded
    | ClockAccepted
    | LossWasAccepted
    | KeyChanged
    | ProjectionsSaved
    | ArchiveChanged
    | OutboxTaken
    | ScheduleDecided
    | CallbackDecided
)
