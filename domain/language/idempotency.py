"""Identity of submissions: the client's idempotency key, or else a digest of the content.

Keys belong to a user. Digests have a namespace of their own, so that no explicit key can equal one.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from typing import Final

import msgspec

from domain.language.bodies import Body
from domain.language.commands import SubmitJob
from domain.language.events import AfterFailure
from domain.language.identifiers import JobId, KeyHash, Kind, UserId
from domain.language.moments import to_micros
from domain.language.policy import Policy

# The fields besides kind and payload that make a submission another one, with their defaults.
_OPTIONS: Final[Mapping[str, object]] = {
    "run_at": None,
    "expires_at": None,
    "timeout_seconds": None,
    "max_attempts": None,
    "retry": None,
    "priority": 0,
    "resources": (),
    "after": (),
    "after_failure": AfterFailure.FAIL,
    "callback": None,
}
_DEFAULTS: Final = tuple(_OPTIONS.values())
_options: Final[Callable[[SubmitJob], tuple[object, ...]]] = attrgetter(*_OPTIONS)


def is_deduplicated(command: SubmitJob, policy: Policy) -> bool:
    """Return True if an earlier submission with the same key may be meant."""
    if command.idempotency_key is not None:
        return True
    return policy.deduplicate if command.deduplicate is None else command.deduplicate


def key_of(command: SubmitJob) -> tuple[str, bool]:
    """Return the idempotency key, and True if the client chose it."""
    if command.idempotency_key is not None:
        return command.idempotency_key, True
    return digest_of(command), False


def digest_of(command: SubmitJob) -> str:
    """Return the digest of the content as it was sent."""
    if command.digest is not None:
        return command.digest
    values = _options(command)
    if values == _DEFAULTS:
        return content_digest(command.kind, command.payload)
    options = {
        name: to_micros(value) if isinstance(value, datetime) else value
        for (name, default), value in zip(_OPTIONS.items(), values, strict=True)
        if value != default
    }
    return content_digest(command.kind, command.payload, options)


def content_digest(kind: Kind, payload: Body, options: Mapping[str, object] | None = None) -> str:
    """Return the SHA-256 of kind, payload and options in hex, separated by NUL.

    `options` are the fields that differ from their defaults. Without any, the digest is the one of
    releases that did not know them.
    """
    written = msgspec.json.encode(options, order="sorted") if options else b""
    return _content_digest(kind, payload.sha256, written)


@lru_cache(maxsize=4096)  # called twice: to load the key's holder, and to decide
def _content_digest(kind: Kind, payload_sha256: str, options: bytes) -> str:
    content = kind.encode() + b"\x00" + payload_sha256.encode()
    return sha256(content + b"\x00" + options if options else content).hexdigest()


def own_digest(digest: str, job_id: JobId) -> str:
    """Return the key of a job that must not be taken for another one with the same content."""
    return sha256(f"{digest}\x00{job_id}".encode()).hexdigest()


def key_hash(user_id: UserId, key: str, *, is_explicit: bool) -> KeyHash:
    """Return the SHA-256 of a user's key in its namespace, 32 bytes."""
    namespace = b"\x01" if is_explicit else b"\x00"
    user = user_id.encode()
    return KeyHash(sha256(namespace + len(user).to_bytes(2, "big") + user + key.encode()).digest())
