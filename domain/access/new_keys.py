"""Validation of the scope and the bounds of a new API key."""

from typing import Final

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import KeyCreated, Role
from domain.language.validation import ATTEMPTS_MAX, PRIORITY_MAX

USERS_MAX: Final = 100  # of one key
KINDS_MAX: Final = 100  # likewise
CHANGES_MAX: Final = 1_000_000_000
_WITH_USERS: Final = frozenset({Role.SUBMITTER, Role.READER})
_WITH_KINDS: Final = frozenset({Role.SUBMITTER, Role.READER, Role.WORKER})


def check_new_key(key: KeyCreated) -> None:
    """Raise `InvalidInput` unless the key fits its role."""
    validation.key_name(key.name)
    _check_users(key)
    if key.kinds and key.role not in _WITH_KINDS:
        raise InvalidInput(f"A key with the role {key.role.value} is for all kinds of job.")
    if len(key.kinds) > KINDS_MAX:
        raise InvalidInput(f"A key is for at most {KINDS_MAX} kinds of job.")
    for kind in key.kinds:
        validation.kind(kind)
    _check_bounds(key)


def _check_users(key: KeyCreated) -> None:
    some = bool(key.users) or key.user_prefix is not None
    if some and key.any_user:
        raise InvalidInput("A key is for all users or for some, not both.")
    if not (some or key.any_user):
        raise InvalidInput("Say whose jobs a submitter's key is for: users, a prefix, or any user.")
    if some and key.role not in _WITH_USERS:
        raise InvalidInput(f"A key with the role {key.role.value} is for all users.")
    if len(key.users) > USERS_MAX:
        raise InvalidInput(f"A key is for at most {USERS_MAX} users; use a prefix for more.")
    for user_id in key.users:
        validation.user_id(user_id)
    if key.user_prefix is not None:
        validation.user_id(key.user_prefix)


def _check_bounds(key: KeyCreated) -> None:
    bounds = (key.priority_max, key.attempts_max, key.timeout_seconds_max, key.changes_max)
    if key.role is not Role.SUBMITTER and any(bound is not None for bound in bounds):
        raise InvalidInput("Only a submitter's key has bounds of what it may ask for.")
    _check_range("The highest priority", key.priority_max, -PRIORITY_MAX, PRIORITY_MAX)
    _check_range("The most attempts", key.attempts_max, 1, ATTEMPTS_MAX)
    _check_range("The most changes", key.changes_max, 0, CHANGES_MAX)
    if key.timeout_seconds_max is not None:
        validation.timeout_seconds(key.timeout_seconds_max)


def _check_range(what: str, number: int | None, least: int, most: int) -> None:
    if number is not None and not least <= number <= most:
        raise InvalidInput(f"{what} of a key is a whole number from {least} to {most}.")
