"""Signed checkpoints of the log's Merkle tree, in the formats of C2SP, and the keys that sign them.

A checkpoint is a text of three lines: the origin, the number of events and the root of the tree
over them (https://c2sp.org/tlog-checkpoint). It is signed as a note (https://c2sp.org/signed-note),
with Ed25519. The private key is written as Go's golang.org/x/mod/sumdb/note writes one.
"""

import binascii
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Final

from msgspec import Struct

from domain.language.errors import InvalidInput

SEED_BYTES: Final = 32
NAME_CHARACTERS_MAX: Final = 255
_ED25519: Final = b"\x01"  # the type of signature, in identifiers and keys
_PRIVATE: Final = "PRIVATE+KEY+"


class Verifier(Struct, frozen=True):
    """The public half of a key pair: what a reader needs to check a signature."""

    name: str  # also the origin of the checkpoints that the key signs
    public_key: bytes  # Ed25519, 32 bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that a signature names its key by."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        """Return the key as verifiers take it: `name+id+key`."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.public_key)}"


def checked_name(name: str) -> str:
    """Return the name of a key pair. Raises `InvalidInput`."""
    if (
        not 0 < len(name) <= NAME_CHARACTERS_MAX
        or not name.isprintable()
        or any(mark in name for mark in (" ", "+", "://"))
    ):
        raise InvalidInput(
            f"A name has 1 to {NAME_CHARACTERS_MAX} visible characters without spaces and +, and "
            "is best the address of the server without https://, like jobs.example.com."
        )
    return name


def private_key_text(verifier: Verifier, seed: bytes) -> str:
    """Return a key pair as text, a secret."""
    return f"{_PRIVATE}{verifier.name}+{verifier.key_id.hex()}+{_base64(_ED25519 + seed)}"


def parse_private_key(text: str) -> tuple[str, str, bytes]:
    """Return the name, the id (hex) and the seed of `private_key_text`.

    Raises `InvalidInput`, whose message has nothing of the text.
    """
    name, _, rest = text.strip().removeprefix(_PRIVATE).partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        key = b64decode(encoded, validate=True)
        checked_name(name)
    except (binascii.Error, ValueError, InvalidInput):
        key = b""
    is_ours = len(key) == 1 + SEED_BYTES and key.startswith(_ED25519)
    if not (text.startswith(_PRIVATE) and is_ours):
        raise InvalidInput("It is not a private key of the form PRIVATE+KEY+name+id+key.")
    return name, key_id, key[1:]


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """Return the text of a checkpoint, which is then signed. `size`: the number of events."""
    return f"{origin}\n{size}\n{_base64(root)}\n"


def signed_note(text: str, verifier: Verifier, signature: bytes) -> str:
    """Return a text with its signature by a key pair."""
    return f"{text}\n— {verifier.name} {_base64(verifier.key_id + signature)}\n"


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
