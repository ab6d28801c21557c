"""API keys with known secrets, and the commands and events that make them."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import replace

from domain.access.secrets import ID_BYTES, RANDOM_BYTES, digest_of, id_of, secret_of
from domain.language.commands import Caller, Command, CreateKey, RevokeKey, RotateKey
from domain.language.events import KeyCreated, KeyRevoked, KeyRotated, Role
from domain.language.identifiers import KeyName, SecretId
from tests.support.given import at

_ALL_USERS: Final[Mapping[Role, dict[str, Any]]] = {
    role: {"any_user": True} for role in Role if role is not Role.SUBMITTER
}


def secret(seed: str) -> str:
    """Return the secret that belongs to a text, well-formed and always the same."""
    entropy = sha256(seed.encode()).digest() + sha256(seed.encode() + b"!").digest()
    return secret_of(entropy[: ID_BYTES + RANDOM_BYTES])


def secret_id(seed: str) -> SecretId:
    found = id_of(secret(seed))
    assert found is not None
    return found


def key_created(name: str, role: Role = Role.SUBMITTER, **fields: Any) -> KeyCreated:
    """The key whose secret belongs to its name."""
    scope = {} if {"users", "user_prefix"} & fields.keys() else _ALL_USERS.get(role, {})
    return KeyCreated(
        name=KeyName(name),
        role=role,
        secret_id=secret_id(name),
        secret_sha256=digest_of(secret(name)),
        **(scope | fields),
    )


def create_key(name: str, role: Role = Role.SUBMITTER, **fields: Any) -> CreateKey:
    return CreateKey(key=key_created(name, role, **fields))


def rotate_key(name: str, seed: str, overlap_seconds: float = 60.0) -> RotateKey:
    return RotateKey(
        name=KeyName(name),
        secret_id=secret_id(seed),
        secret_sha256=digest_of(secret(seed)),
        overlap_seconds=overlap_seconds,
    )


def key_rotated(name: str, seed: str, until: float) -> KeyRotated:
    return KeyRotated(
        name=KeyName(name),
        secret_id=secret_id(seed),
        secret_sha256=digest_of(secret(seed)),
        earlier_until=at(until),
    )


def revoke_key(name: str) -> RevokeKey:
    return RevokeKey(name=KeyName(name))


def key_revoked(name: str) -> KeyRevoked:
    return KeyRevoked(name=KeyName(name))


def caller(name: str, seed: str | None = None) -> Caller:
    return Caller(KeyName(name), secret_id(seed or name))


def by(name: str, command: Command, seed: str | None = None) -> Command:
    """Return the command as the key sends it."""
    return replace(command, by=caller(name, seed))
