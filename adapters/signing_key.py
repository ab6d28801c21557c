"""The key pair that signs checkpoints: a file outside the database.

Whoever can change the database can then change the log, but not sign what they made of it. The file
has one line, the private key as Go's golang.org/x/mod/sumdb/note writes it, so that tools for
transparency logs read it too.
"""

import os
import secrets
from typing import Final

from adapters.secret_file import read_secret_file
from adapters.settings import Settings, SettingsError
from domain.language.errors import InvalidInput
from domain.log.signed_note import (
    SEED_BYTES,
    Verifier,
    checked_name,
    parse_private_key,
    private_key_text,
    signed_note,
)

OPTION: Final = "--checkpoint-key-file"
_MODE: Final = 0o600


class SigningKey:
    """A key pair. Only `verifier` may be shown."""

    def __init__(self, name: str, seed: bytes) -> None:
        # 54 ms to import, which no command without such a key should wait for.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 (see above)
            Ed25519PrivateKey,
        )

        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, self._key.public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """Return a text as a signed note."""
        return signed_note(text, self.verifier, self._key.sign(text.encode()))


def create_signing_key(file: str, name: str) -> SigningKey:
    """Make a key pair and write it to a new file, which only its owner can read.

    Raises `InvalidInput` for the name, and `SettingsError` if the file exists or cannot be written.
    """
    seed = secrets.token_bytes(SEED_BYTES)
    key = SigningKey(checked_name(name), seed)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(private_key_text(key.verifier, seed) + "\n")
            opened.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise SettingsError(
            f"{file} exists, and a log keeps its key: leave out the name to show its verifier key, "
            f"or name another file with {OPTION}."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be written ({error.strerror}): name another file with {OPTION}."
        ) from error
    return key


def signing_key_of(settings: Settings) -> SigningKey | None:
    """Return the key pair of the settings, None if they name none. See `read_signing_key`."""
    file = settings.checkpoint_key_file
    return None if file is None else read_signing_key(file)


def read_signing_key(file: str) -> SigningKey:
    """Read a key pair. Raises `SettingsError`, whose message has nothing of the file."""
    content = read_secret_file(file, OPTION, "fairlog audit key NAME")
    try:
        name, key_id, seed = parse_private_key(content.decode(errors="replace"))
    except InvalidInput as error:
        raise SettingsError(f"{file} holds no signing key. {error} Check {OPTION}.") from None
    key = SigningKey(name, seed)
    if key.verifier.key_id.hex() != key_id:
        raise SettingsError(
            f"The name or the key in {file} was changed, since its id does not belong to them: put "
            "the file back from a copy, or make a new key under a new name."
        )
    return key
