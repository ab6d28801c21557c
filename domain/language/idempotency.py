"""What makes two submissions the same: the user's key, or else the digest of kind and payload.

Keys belong to a user. Digests are a namespace of their own, so that nobody can hit somebody's
digest by sending it as an explicit key.
"""

from functools import lru_cache
from hashlib import sha256

from domain.language.bodies import Body
from domain.language.commands import SubmitJob
from domain.language.identifiers import KeyHash, Kind, UserId


def key_of(command: SubmitJob) -> tuple[str, bool]:
    """The idempotency key, and whether the client chose it."""
    if command.idempotency_key is not None:
        return command.idempotency_key, True
    return content_digest(command.kind, command.payload), False


def content_digest(kind: Kind, payload: Body) -> str:
    """Hex; kinds hold no control characters, so the separator cannot be part of one."""
    return _content_digest(kind, payload.sha256)


@lru_cache(maxsize=4096)  # asked for twice: to find the key's holder, and to decide
def _content_digest(kind: Kind, payload_sha256: str) -> str:
    return sha256(kind.encode() + b"\x00" + payload_sha256.encode()).hexdigest()


def key_hash(user_id: UserId, key: str, *, is_explicit: bool) -> KeyHash:
    """32 bytes that stand for the key of this user in its namespace."""
    namespace = b"\x01" if is_explicit else b"\x00"
    user = user_id.encode()
    return KeyHash(sha256(namespace + len(user).to_bytes(2, "big") + user + key.encode()).digest())
