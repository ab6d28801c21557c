"""Signatures of requests by the convention Standard Webhooks, and the secrets that they need.

All secrets are derived from one key, which is kept in a file outside the database. So the log needs
to record only the version of a secret, and nobody learns one from it.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from adapters.secret_file import BYTES_MAX, read_secret_file
from adapters.settings import Settings, SettingsError

OPTION: Final = "--callback-key-file"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (the convention's, not a secret)
KEY_BYTES_MIN: Final = 32


class SecretKey:
    """The key that secrets are derived from. It has no repr that shows it."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def secret(self, name: str, version: int) -> str:
        """Return a secret of Standard Webhooks, `whsec_` and base64: the same whenever it is asked.

        `name` is what the secret is for, such as "callback/orders"; `version` counts from 1, and
        one more replaces the secret.
        """
        purpose = f"fairlog/{name}\n{version}".encode()
        derived = hmac.digest(self._key, purpose, hashlib.sha256)
        return SECRET_PREFIX + base64.b64encode(derived).decode("ascii")


def secret_key_of(settings: Settings) -> SecretKey | None:
    """Return the key of the settings, None if they name none. See `read_secret_key`."""
    file = settings.callback_key_file
    return None if file is None else read_secret_key(file)


def read_secret_key(file: str) -> SecretKey:
    """Read a key. Raises `SettingsError`, whose message has nothing of the file."""
    make = f"(umask 077; head -c 32 /dev/urandom | base64 > {file})"
    content = read_secret_file(file, OPTION, make).strip()
    if not KEY_BYTES_MIN <= len(content) <= BYTES_MAX:
        raise SettingsError(
            f"{file} must hold {KEY_BYTES_MIN} to {BYTES_MAX} bytes of chance, as "
            f"`head -c 32 /dev/urandom | base64` makes them. Check {OPTION}."
        )
    return SecretKey(content)


def signed_headers(
    secrets: Sequence[str], message_id: str, at: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers that prove who sent a body, and when.

    `secrets` are `whsec_` and base64; during a rotation they are several, and a receiver needs to
    know one. `message_id` names the message: it is the same when it is sent again. `at` is in UTC.
    """
    timestamp = str(int(at.replace(tzinfo=UTC).timestamp()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    signatures = (hmac.digest(_bytes_of(secret), signed, hashlib.sha256) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(one).decode('ascii')}" for one in signatures
        ),
    }


def _bytes_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
