"""The secret of an API key: `fl_<id>_<random and checksum>`. Only its SHA-256 is stored.

The random part has 256 bits, so a secret cannot be guessed and needs no slow hash. The checksum
lets scanners recognize a secret, and lets the server tell a mistyped one without a look-up.
"""

import re
import zlib
from hashlib import sha256
from typing import Final

from domain.language.identifiers import SecretId

ID_BYTES: Final = 8  # of entropy; ids are public and only have to differ
RANDOM_BYTES: Final = 32  # of entropy: 256 bits
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARACTERS: Final = 11  # 62 ** 11 > 2 ** 64
ID_START: Final = 3  # where the id begins in a secret
ID_END: Final = ID_START + _ID_CHARACTERS  # exclusive
_RANDOM_CHARACTERS: Final = 43  # 62 ** 43 > 2 ** 256
_CHECKSUM_CHARACTERS: Final = 6  # 62 ** 6 > 2 ** 32
_TAIL_CHARACTERS: Final = _RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS
_FORM: Final = re.compile(
    rf"fl_([0-9A-Za-z]{{{_ID_CHARACTERS}}})_[0-9A-Za-z]{{{_TAIL_CHARACTERS}}}"
)


def secret_of(entropy: bytes) -> str:
    """Return the secret that is made of ID_BYTES + RANDOM_BYTES random bytes."""
    if len(entropy) != ID_BYTES + RANDOM_BYTES:
        raise ValueError(f"{len(entropy)} bytes of entropy")
    secret_id = _base62(entropy[:ID_BYTES], _ID_CHARACTERS)
    text = f"fl_{secret_id}_{_base62(entropy[ID_BYTES:], _RANDOM_CHARACTERS)}"
    return text + _checksum(text)


def id_of(secret: str) -> SecretId | None:
    """Return the public part of a secret; None if it is malformed."""
    found = _FORM.fullmatch(secret)
    if found is None or secret[-_CHECKSUM_CHARACTERS:] != _checksum(secret[:-_CHECKSUM_CHARACTERS]):
        return None
    return SecretId(found[1])


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret, in hexadecimal, as the log stores it."""
    return sha256(secret.encode()).hexdigest()


def _checksum(text: str) -> str:
    """Return the CRC-32 of a text in base 62, as tokens of GitHub have it."""
    return _base62(zlib.crc32(text.encode()).to_bytes(4, "big"), _CHECKSUM_CHARACTERS)


def _base62(data: bytes, characters: int) -> str:
    number = int.from_bytes(data, "big")
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
