"""API keys as answers show them, without their secrets."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from domain.access.keys import ApiKey, ApiKeys
from domain.language.events import Role
from domain.language.identifiers import KeyName, Kind, SecretId, UserId
from domain.language.ranges import Count, MaxAttempts, Name, Priority, Time, TimeoutSeconds


class SecretView(Struct, frozen=True):
    """A secret of a key, without the secret itself."""

    id: Annotated[SecretId, Meta(description="Its public part, as in `fl_<id>_…`.")]
    until: Annotated[Time | None, Meta(description="When it ends. null: with the key.")]


class KeyView(Struct, frozen=True, kw_only=True):
    """An API key, and what it may do."""

    name: Annotated[KeyName, Meta(description="Its name, which `by` of an event shows.")]
    role: Annotated[Role, Meta(description="What it may do.")]
    users: Annotated[Sequence[UserId], Meta(description="The users whose jobs it is for.")]
    user_prefix: Annotated[
        Name | None, Meta(description="It is for all users whose ids start so, or null.")
    ]
    any_user: Annotated[bool, Meta(description="Whether it is for all users.")]
    kinds: Annotated[
        Sequence[Kind], Meta(description="The kinds of job that it is for. Empty: all.")
    ]
    priority_max: Annotated[Priority | None, Meta(description="The highest priority, or null.")]
    attempts_max: Annotated[MaxAttempts | None, Meta(description="The most attempts, or null.")]
    timeout_seconds_max: Annotated[
        TimeoutSeconds | None, Meta(description="The longest time-out in seconds, or null.")
    ]
    changes_max: Annotated[
        Count | None, Meta(description="Cancellations and retries per window, or null.")
    ]
    secrets: Annotated[Sequence[SecretView], Meta(description="Its secrets that still hold.")]
    created_at: Annotated[Time, Meta(description="When it was created.")]
    expires_at: Annotated[Time | None, Meta(description="When it ends, or null: never.")]
    revoked_at: Annotated[Time | None, Meta(description="When it was revoked, or null.")]
    valid: Annotated[bool, Meta(description="Whether it may be used.")]


def key_view(key: ApiKey, now: datetime) -> KeyView:
    """Return the view of a key at a time of the log."""
    created = key.created
    valid = key.is_valid(now)
    return KeyView(
        name=key.name,
        role=key.role,
        users=created.users,
        user_prefix=created.user_prefix,
        any_user=created.any_user,
        kinds=created.kinds,
        priority_max=created.priority_max,
        attempts_max=created.attempts_max,
        timeout_seconds_max=created.timeout_seconds_max,
        changes_max=created.changes_max,
        secrets=[
            SecretView(one.id, one.until)
            for one in key.secrets
            if valid and (one.until is None or now < one.until)
        ],
        created_at=key.created_at,
        expires_at=created.expires_at,
        revoked_at=key.revoked_at,
        valid=valid,
    )


def key_views(keys: ApiKeys, now: datetime) -> list[KeyView]:
    """Return the views of all keys, in the order in which they were created."""
    return [key_view(key, now) for key in keys.by_name.values()]
