"""Identity of submissions: the client's idempotency key, or else a digest of kind and payload.

Keys belong to a user. Digests have a namespace of their own, so that no explicit key can equal one.
"""

from functools import lru_cache
from hashlib import sha256

from domain.language.bodies import Body
from domain.language.commands import SubmitJob
from domain.language.identifiers import KeyHash, Kind, UserId


def key_of(command: SubmitJob) -> tuple[str, bool]:
    """Return the idempotency key, and True if the client chose it."""
    if command.idempotency_key is not None:
        return command.idempotency_key, True
    return content_digest(command.kind, command.payload), False


def content_digest(kind: Kind, payload: Body) -> str:
    """Return the SHA-256 of kind and payload in hex, separated by NUL, which no kind contains."""
    return _content_digest(kind, payload.sha256)


@lru_cache(maxsize=4096)  # called twice: to load the key's holder, and to decide
def _content_digest(kind: Kind, payload_sha256: str) -> str:
    return sha256(kind.encode() + b"\x00" + payload_sha256.encode()).hexdigest()


def key_hash(user_id: UserId, key: str, *, is_explicit: bool) -> KeyHash:
    """Return the SHA-256 of a user's key in its namespace, 32 bytes."""
    namespace = b"\x01" if is_explicit else b"\x00"
    user = user_id.encode()
    return KeyHash(sha256(namespace + len(user).to_bytes(2, "big") + user + key.encode()).digest())
