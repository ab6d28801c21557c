"""SHA-256 digests in hex, as events have them, and as bytes, which take half the room."""

from typing import Final

_BYTES: Final = 32


def packed(text: str) -> bytes:
    """Return the bytes of a digest in hex; of any other text, which no release wrote, its UTF-8."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return text.encode()
    return digest if len(digest) == _BYTES and digest.hex() == text else text.encode()


def unpacked(digest: bytes) -> str:
    """Return the text that `packed` was given. Only a digest has 32 bytes."""
    return digest.hex() if len(digest) == _BYTES else digest.decode()
