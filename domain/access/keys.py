"""The API keys that the log has, each with its secrets, its rights and whose jobs it may see."""

from datetime import datetime
from hmac import compare_digest
from typing import ClassVar, Final

from msgspec import Struct
from msgspec.structs import replace

from domain.access.rights import RIGHTS, Right
from domain.access.secrets import ID_END, ID_START, digest_of
from domain.language.callbacks import CALLBACK_USERS
from domain.language.commands import Caller
from domain.language.events import KeyCreated, KeyRevoked, KeyRotated, Recorded, Role
from domain.language.identifiers import KeyName, Kind, SecretId, UserId
from domain.log.folds import Folded, FoldMethods

KEYS_MAX: Final = 10_000  # ever created; each process has all of them in memory
SECRETS_MAX: Final = 10  # of one key at once


class Secret(Struct, frozen=True):
    """One secret of a key."""

    id: SecretId
    sha256: str  # hex
    until: datetime | None = None  # UTC, exclusive; None: as long as the key


class ApiKey(Struct, frozen=True):
    """An API key. What it may do never changes; its secrets and its validity do."""

    created: KeyCreated
    created_at: datetime  # UTC
    secrets: tuple[Secret, ...]  # the latest last
    revoked_at: datetime | None = None  # UTC

    @property
    def name(self) -> KeyName:
        return self.created.name

    @property
    def role(self) -> Role:
        return self.created.role

    @property
    def rights(self) -> frozenset[Right]:
        """The rights of its role; READ_ALL only if it is for all users and kinds."""
        rights = RIGHTS[self.role]
        return rights if self.sees_all else rights - {Right.READ_ALL}

    @property
    def sees_all(self) -> bool:
        """True if it is for every user and kind."""
        return self.created.any_user and not self.created.kinds

    @property
    def only_user(self) -> UserId | None:
        """The user, if it is for one alone."""
        created = self.created
        one = len(created.users) == 1 and created.user_prefix is None and not created.any_user
        return created.users[0] if one else None

    def is_valid(self, now: datetime) -> bool:
        """Return True if it is neither revoked nor expired."""
        expires_at = self.created.expires_at
        return self.revoked_at is None and (expires_at is None or now < expires_at)

    def has_secret(self, secret_id: SecretId, now: datetime) -> bool:
        """Return True if it is valid and still has this secret."""
        for one in self.secrets:
            if one.id == secret_id:
                return (one.until is None or now < one.until) and self.is_valid(now)
        return False

    def is_for_user(self, user_id: UserId) -> bool:
        """Return True if it may submit and see jobs of this user."""
        created = self.created
        return (
            created.any_user
            or user_id in created.users
            or (created.user_prefix is not None and begins_with(user_id, created.user_prefix))
        )

    def is_for_kind(self, kind: Kind) -> bool:
        """Return True if it may submit, see and claim jobs of this kind."""
        return not self.created.kinds or kind in self.created.kinds

    def is_for(self, user_id: UserId, kind: Kind) -> bool:
        """Return True if a job of this user and kind is the key's to see."""
        return self.is_for_user(user_id) and self.is_for_kind(kind)


class ApiKeys(Folded):
    """All API keys up to a position. A copy shares the keys and is folded on its own."""

    def __init__(self) -> None:
        self.position = 0  # of the latest event that changed a key
        self.loss = 0  # position of the latest `LossAccepted` when they were read
        self.by_name: dict[KeyName, ApiKey] = {}
        self.names: dict[SecretId, KeyName] = {}  # by the id of a secret, past ones included
        self._is_shared = False  # the mappings belong to others too

    def copy(self) -> "ApiKeys":
        copied = ApiKeys()
        copied.become(self)
        return copied

    def become(self, other: "ApiKeys") -> None:
        """Take over the keys of another one, without copying them."""
        self.position, self.loss = other.position, other.loss
        self.by_name, self.names = other.by_name, other.names
        self._is_shared = other._is_shared = True  # noqa: SLF001 (of the same class)

    def valid(self, caller: Caller, now: datetime) -> ApiKey | None:
        """Return the key of a caller; None if the key or its secret is not valid now."""
        key = self.by_name.get(caller.key)
        return key if key is not None and key.has_secret(caller.secret, now) else None

    def recognize(self, secret: str, now: datetime) -> tuple[ApiKey, Caller] | None:
        """Return the key that a secret belongs to; None if there is none, or it is not valid now.

        The digests are compared in constant time. They cover the whole secret, so neither its form
        nor its checksum has to be looked at.
        """
        secret_id = SecretId(secret[ID_START:ID_END])
        name = self.names.get(secret_id)
        if name is None:
            return None
        key = self.by_name[name]
        stored = next((one.sha256 for one in key.secrets if one.id == secret_id), "")
        if not compare_digest(stored, digest_of(secret)) or not key.has_secret(secret_id, now):
            return None
        return key, Caller(name, secret_id)

    def _created(self, recorded: Recorded, event: KeyCreated) -> None:
        secret = Secret(event.secret_id, event.secret_sha256)
        self._put(recorded, ApiKey(event, recorded.recorded_at, (secret,)))

    def _rotated(self, recorded: Recorded, event: KeyRotated) -> None:
        key = self.by_name.get(event.name)
        if key is None:
            return
        kept = [
            replace(one, until=min(one.until or event.earlier_until, event.earlier_until))
            for one in key.secrets
        ]
        kept = [one for one in kept if one.until is None or recorded.recorded_at < one.until]
        secret = Secret(event.secret_id, event.secret_sha256)
        self._put(recorded, replace(key, secrets=(*kept, secret)))

    def _revoked(self, recorded: Recorded, event: KeyRevoked) -> None:
        key = self.by_name.get(event.name)
        if key is not None:
            self._put(recorded, replace(key, revoked_at=key.revoked_at or recorded.recorded_at))

    def _put(self, recorded: Recorded, key: ApiKey) -> None:
        """Add a key or replace it, in mappings of its own."""
        if self._is_shared:
            self.by_name, self.names = dict(self.by_name), dict(self.names)
            self._is_shared = False
        self.by_name[key.name] = key
        self.names[key.secrets[-1].id] = key.name
        self.position = recorded.position

    FOLDS: ClassVar[FoldMethods] = {
        KeyCreated: _created,
        KeyRotated: _rotated,
        KeyRevoked: _revoked,
    }


KEY_EVENTS: Final[tuple[type, ...]] = tuple(ApiKeys.FOLDS)


def begins_with(user_id: UserId, prefix: str) -> bool:
    """Return True for a user whom the prefix of a key reaches.

    It reaches none of those of callbacks, which tell of the jobs of anybody.
    """
    return user_id.startswith(prefix) and not user_id.startswith(CALLBACK_USERS)


def byte_ranges(prefix: str) -> list[tuple[bytes, bytes]]:
    """Return the texts that `begins_with` accepts, as ranges: the first text, and the first one
    behind it.
    """
    first, end = _byte_range(prefix)
    if CALLBACK_USERS.startswith(prefix):
        first_left_out, end_left_out = _byte_range(CALLBACK_USERS)
        return [(first, first_left_out), (end_left_out, end)]
    return [] if prefix.startswith(CALLBACK_USERS) else [(first, end)]


def _byte_range(prefix: str) -> tuple[bytes, bytes]:
    first = prefix.encode()
    return first, first[:-1] + bytes([first[-1] + 1])  # no byte of UTF-8 is 0xFF
