"""Commands that create and rotate API keys, with new secrets. The secret itself is only returned:
the log has its SHA-256.
"""

import secrets

from msgspec.structs import replace

from adapters.log.key_events import latest_key_event
from adapters.log.schema import is_current
from domain.access.new_keys import check_new_key
from domain.access.secrets import ID_BYTES, RANDOM_BYTES, digest_of, id_of, secret_of
from domain.language import validation
from domain.language.commands import CreateKey, RotateKey
from domain.language.errors import InvalidInput
from domain.language.events import KeyCreated, Role
from domain.language.identifiers import KeyName, SecretId
from entrypoints.service.fairlog import Fairlog

OVERLAP_SECONDS = 3600.0  # of a rotation, if none is given
OVERLAP_SECONDS_MAX = 30 * 86_400.0
NO_SECRET = SecretId("")  # of a key that has not got one yet


def creation(key: KeyCreated) -> tuple[str, CreateKey]:
    """Return a new secret, and the command that creates the key with it. Raises `InvalidInput`.

    A key with another role than submitter is for any user unless it says for which.
    """
    if key.role is not Role.SUBMITTER and not key.users and key.user_prefix is None:
        key = replace(key, any_user=True)
    check_new_key(key)
    secret, secret_id = _new_secret()
    named = replace(key, secret_id=secret_id, secret_sha256=digest_of(secret))
    return secret, CreateKey(key=named)


def rotation(name: KeyName, overlap_seconds: float) -> tuple[str, RotateKey]:
    """Return a new secret, and the command that gives it to the key. Raises `InvalidInput`."""
    validation.key_name(name)
    if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
        raise InvalidInput("The overlap of two secrets is at most 30 days.")
    secret, secret_id = _new_secret()
    return secret, RotateKey(
        name=name,
        secret_id=secret_id,
        secret_sha256=digest_of(secret),
        overlap_seconds=overlap_seconds,
    )


def has_keys(fairlog: Fairlog) -> bool:
    """Return True if a key was ever created, so that requests need one."""
    database = fairlog.database
    return is_current(database) and fairlog.read_now(latest_key_event) > 0


def _new_secret() -> tuple[str, SecretId]:
    secret = secret_of(secrets.token_bytes(ID_BYTES + RANDOM_BYTES))
    secret_id = id_of(secret)
    assert secret_id is not None
    return secret, secret_id
