"""The rules of commands about API keys, and of commands that a key sends."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, assert_never

from msgspec.structs import replace

from domain.access.keys import KEYS_MAX, SECRETS_MAX, ApiKey, ApiKeys
from domain.access.rights import Right
from domain.jobs.job import Job
from domain.language.commands import (
    AcceptClock,
    BackfillSchedule,
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    CreateKey,
    DeleteCallback,
    DeletePlan,
    DeleteSchedule,
    EraseBodies,
    ExtendLeases,
    FailJob,
    JobCommand,
    RetryJob,
    ReturnJob,
    RevokeKey,
    RotateCallbackSecret,
    RotateKey,
    SetCallback,
    SetSchedule,
    SubmitJob,
    TriggerSchedule,
)
from domain.language.errors import (
    BeyondBounds,
    KeyExists,
    KeyHasEnded,
    MissingRight,
    NotForKind,
    NotForUser,
    TooManyKeys,
    TooManySecrets,
    UnknownKey,
)
from domain.language.events import Event, JobSubmitted, KeyRevoked, KeyRotated
from domain.language.identifiers import KeyName, Kind, SecretId, UserId
from domain.language.moments import later

KeyCommand = CreateKey | RotateKey | RevokeKey


def decide(keys: ApiKeys, command: KeyCommand, now: datetime) -> list[Event]:
    """Return the events that follow; none if nothing changes. Raises a `Refusal`."""
    match command:
        case CreateKey(key=created):
            if created.name in keys.by_name:
                raise KeyExists(created.name)
            if len(keys.by_name) >= KEYS_MAX:
                raise TooManyKeys(KEYS_MAX)
            _require_new(keys, created.secret_id, created.name)
            return [created]
        case RotateKey():
            return [_rotate(keys, command, now)]
        case RevokeKey(name=name):
            key = _known(keys, name)
            return [] if key.revoked_at is not None else [KeyRevoked(name=name)]
        case _:
            assert_never(command)


def _rotate(keys: ApiKeys, command: RotateKey, now: datetime) -> Event:
    key = _known(keys, command.name)
    if not key.is_valid(now):
        raise KeyHasEnded(command.name)
    held = sum(one.until is None or now < one.until for one in key.secrets)
    if held >= SECRETS_MAX:
        raise TooManySecrets(command.name, SECRETS_MAX)
    _require_new(keys, command.secret_id, command.name)
    return KeyRotated(
        name=command.name,
        secret_id=command.secret_id,
        secret_sha256=command.secret_sha256,
        earlier_until=later(now, command.overlap_seconds),
    )


def _known(keys: ApiKeys, name: KeyName) -> ApiKey:
    key = keys.by_name.get(name)
    if key is None:
        raise UnknownKey(name)
    return key


def _require_new(keys: ApiKeys, secret_id: SecretId, name: KeyName) -> None:
    """Refuse a secret whose id another one has, which chance alone does not bring about."""
    if secret_id in keys.names:
        raise KeyExists(name)


def check_command(key: ApiKey, command: Command) -> None:
    """Raise `NotAllowed` unless the key may send this command, whatever job it is about."""
    needed = _NEEDED.get(type(command), frozenset())
    if key.rights.isdisjoint(needed):
        raise MissingRight(key.name, key.role, sorted(needed))
    if isinstance(command, SubmitJob):
        check_submission(key, command)
    elif isinstance(command, SetSchedule):
        _check_user_and_kind(key, command.user_id, command.kind)
    elif isinstance(command, ClaimJobs) and key.created.kinds:
        if command.kinds is None:
            raise MissingRight(key.name, key.role, ["work on all kinds"])
        for kind in command.kinds:
            if not key.is_for_kind(kind):
                raise NotForKind(key.name, kind, key.created.kinds)


def check_submission(key: ApiKey, command: SubmitJob) -> None:
    """Raise `NotAllowed` unless the key may submit this job."""
    created = key.created
    _check_user_and_kind(key, command.user_id, command.kind)
    _check_bound(key, "priority", command.priority, created.priority_max)
    _check_bound(key, "max_attempts", command.max_attempts, created.attempts_max)
    _check_bound(key, "timeout_seconds", command.timeout_seconds, created.timeout_seconds_max)


def _check_user_and_kind(key: ApiKey, user_id: UserId, kind: Kind) -> None:
    if not key.is_for_user(user_id):
        raise NotForUser(key.name, user_id)
    if not key.is_for_kind(kind):
        raise NotForKind(key.name, kind, key.created.kinds)


def _check_bound(key: ApiKey, what: str, given: float | None, most: float | None) -> None:
    if given is not None and most is not None and given > most:
        raise BeyondBounds(key.name, what, most)


def bounded(key: ApiKey, submitted: JobSubmitted) -> JobSubmitted:
    """Return a job of the key whose defaults are within the key's bounds too."""
    attempts_max, seconds_max = key.created.attempts_max, key.created.timeout_seconds_max
    if attempts_max is None and seconds_max is None:
        return submitted
    attempts, seconds = submitted.max_attempts, submitted.timeout_seconds
    return replace(
        submitted,
        max_attempts=attempts if attempts_max is None else min(attempts, attempts_max),
        timeout_seconds=seconds
        if seconds_max is None
        else min(seconds or seconds_max, seconds_max),
    )


def concerns(key: ApiKey | None, job: Job, command: JobCommand) -> bool:
    """Return True if the job is the caller's to act on. To others it does not exist.

    An attempt belongs to the API key that claimed it, or to workers without a key. An operator
    may return an attempt of any key.
    """
    match command:
        case ReturnJob() if key is not None and Right.OPERATE in key.rights:
            return True
        case CompleteJob() | FailJob() | ReturnJob():
            name = None if key is None else key.name
            return name == _holder_of(job, command.attempt)
        case CancelJob() | RetryJob() | EraseBodies():
            return key is None or key.is_for(job.user_id, job.kind)
        case _:
            assert_never(command)


def _holder_of(job: Job, attempt: int) -> KeyName | None:
    """Return the API key that claimed an attempt; None: no key, or the job no longer knows it."""
    if attempt == job.attempt:
        return job.holder
    place = job.ending_attempt(attempt)
    return None if place is None else place.holder


_NEEDED: Final[Mapping[type[Command], frozenset[Right]]] = {
    SubmitJob: frozenset({Right.SUBMIT}),
    ClaimJobs: frozenset({Right.WORK}),
    ExtendLeases: frozenset({Right.WORK}),
    CompleteJob: frozenset({Right.WORK}),
    FailJob: frozenset({Right.WORK}),
    ReturnJob: frozenset({Right.WORK, Right.OPERATE}),
    CancelJob: frozenset({Right.CHANGE_JOBS}),
    RetryJob: frozenset({Right.CHANGE_JOBS}),
    EraseBodies: frozenset({Right.ERASE}),
    ChangeLimit: frozenset({Right.OPERATE}),
    DeletePlan: frozenset({Right.OPERATE}),
    SetSchedule: frozenset({Right.OPERATE}),
    DeleteSchedule: frozenset({Right.OPERATE}),
    TriggerSchedule: frozenset({Right.OPERATE}),
    BackfillSchedule: frozenset({Right.OPERATE}),
    SetCallback: frozenset({Right.OPERATE}),
    DeleteCallback: frozenset({Right.OPERATE}),
    RotateCallbackSecret: frozenset({Right.OPERATE}),
    AcceptClock: frozenset({Right.OPERATE}),
    CreateKey: frozenset({Right.KEYS}),
    RotateKey: frozenset({Right.KEYS}),
    RevokeKey: frozenset({Right.KEYS}),
}
