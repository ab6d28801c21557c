"""Legality of API keys: each event of a key is possible, and each caller was allowed to cause its
event.
"""

from collections.abc import Mapping
from typing import Final

from domain.access.keys import ApiKey, ApiKeys
from domain.access.rights import Right
from domain.jobs.job import Job
from domain.language.events import (
    AttemptBegun,
    AttemptEnded,
    BodiesErased,
    CallbackDeleted,
    CallbackSecretRotated,
    CallbackSet,
    ClockCorrected,
    Event,
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    LeasesExtended,
    LimitChanged,
    PlanDeleted,
    ProgressReported,
    RateLimitDecided,
    Recorded,
    RequeueReason,
    ScheduleBackfillBegun,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleSet,
    SubmissionDeduplicated,
)

# Which right causes an event of a type; of several, one is enough. Other types have no caller.
_CAUSES: Final[Mapping[type[Event], frozenset[Right]]] = {
    RateLimitDecided: frozenset({Right.SUBMIT, Right.CHANGE_JOBS}),
    JobSubmitted: frozenset({Right.SUBMIT}),
    SubmissionDeduplicated: frozenset({Right.SUBMIT}),
    JobStarted: frozenset({Right.WORK}),
    AttemptBegun: frozenset({Right.WORK}),
    LeasesExtended: frozenset({Right.WORK}),
    ProgressReported: frozenset({Right.WORK}),
    JobCompleted: frozenset({Right.WORK}),
    JobFailed: frozenset({Right.WORK, Right.OPERATE}),
    AttemptEnded: frozenset({Right.WORK, Right.OPERATE}),
    JobRequeued: frozenset({Right.WORK, Right.OPERATE, Right.CHANGE_JOBS}),
    JobCancelled: frozenset({Right.CHANGE_JOBS}),
    LimitChanged: frozenset({Right.OPERATE}),
    PlanDeleted: frozenset({Right.OPERATE}),
    ScheduleSet: frozenset({Right.OPERATE}),
    ScheduleDeleted: frozenset({Right.OPERATE}),
    ScheduleFired: frozenset({Right.OPERATE}),
    ScheduleBackfillBegun: frozenset({Right.OPERATE}),
    CallbackSet: frozenset({Right.OPERATE}),
    CallbackDeleted: frozenset({Right.OPERATE}),
    CallbackSecretRotated: frozenset({Right.OPERATE}),
    ClockCorrected: frozenset({Right.OPERATE}),
    BodiesErased: frozenset({Right.ERASE}),
    KeyCreated: frozenset({Right.KEYS}),
    KeyRotated: frozenset({Right.KEYS}),
    KeyRevoked: frozenset({Right.KEYS}),
}
_ABOUT_USERS: Final = (
    RateLimitDecided,
    JobSubmitted,
    SubmissionDeduplicated,
    JobCancelled,
    ScheduleSet,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleBackfillBegun,
)


def misuse(keys: ApiKeys, job_before: Job | None, recorded: Recorded) -> str | None:
    """Say what is wrong with the keys of an event, given those before it; None if it is right."""
    event = recorded.event
    if isinstance(event, KeyCreated | KeyRotated | KeyRevoked) and (wrong := _wrong(keys, event)):
        return wrong
    if wrong := _wrong_holder(keys, job_before, event):
        return wrong
    if event.by is None:
        return None
    key = keys.by_name.get(event.by)
    # A server reports the refusals of its cache a moment later, when the key may have ended.
    is_late = isinstance(event, RateLimitDecided) and not event.allowed
    if key is None or not (is_late or key.is_valid(recorded.recorded_at)):
        return f"the key {event.by!r} that caused it was not valid then"
    return _beyond_rights(key, event)


def _wrong(keys: ApiKeys, event: KeyCreated | KeyRotated | KeyRevoked) -> str | None:
    key = keys.by_name.get(event.name)
    if isinstance(event, KeyCreated):
        return None if key is None else f"there was a key {event.name!r} already"
    if key is None:
        return f"there was no key {event.name!r}"
    return None if key.revoked_at is None else f"the key {event.name!r} had been revoked"


def _beyond_rights(key: ApiKey, event: Event) -> str | None:
    if key.rights.isdisjoint(_CAUSES.get(type(event), ())):
        return f"the key {key.name!r} with the role {key.role.value} may not cause it"
    if isinstance(event, _ABOUT_USERS) and not key.is_for_user(event.user_id):
        return f"the key {key.name!r} is not for user {event.user_id!r}"
    return None


def _wrong_holder(keys: ApiKeys, job: Job | None, event: Event) -> str | None:
    """Say if another key than the one that claimed an attempt reported on it."""
    if job is None or event.by == job.holder:
        return None
    match event:
        case JobCompleted() | AttemptBegun() | ProgressReported():
            pass
        case JobFailed(reason=FailureReason.ERROR):
            pass
        case JobRequeued(reason=RequeueReason.GIVEN_BACK):
            key = None if event.by is None else keys.by_name.get(event.by)
            if key is not None and Right.OPERATE in key.rights:
                return None
        case _:
            return None
    return f"another key than {job.holder!r} reported on attempt {job.attempt} of job {job.id}"
