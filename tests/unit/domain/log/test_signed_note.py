"""Keys and notes against the examples of the specification and of Go's package."""

from base64 import b64decode

import pytest

from adapters.signing_key import SigningKey
from domain.language.errors import InvalidInput
from domain.log.signed_note import (
    Verifier,
    checked_name,
    checkpoint_text,
    parse_private_key,
    private_key_text,
)

# From the documentation of golang.org/x/mod/sumdb/note.
PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb"
    "6KE6RyyBwJnAM=\n"
)


def test_a_note_of_gos_documentation_is_signed_byte_for_byte() -> None:
    name, key_id, seed = parse_private_key(PRIVATE + "\n")
    key = SigningKey(name, seed)
    assert (str(key.verifier), key_id) == (VERIFIER, "c74f20a3")
    assert private_key_text(key.verifier, seed) == PRIVATE
    assert key.sign(TEXT) == f"{TEXT}\n{SIGNATURE}"


def test_a_checkpoint_is_that_of_the_specification() -> None:
    root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    text = checkpoint_text("example.com/behind-the-sofa", 20852163, b64decode(root))
    assert text == f"example.com/behind-the-sofa\n20852163\n{root}\n"


@pytest.mark.parametrize("name", ["jobs.example.com/log", "fairlog", "größe.example", "x" * 255])
def test_a_name_may_be_anything_visible(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a\u00a0b", "a\u2003b", "a+b", "a\nb", "a\x00", "\udcff", "https://a", "x" * 256],
)
def test_a_name_that_readers_of_notes_refuse_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="A name has 1 to 255 visible characters"):
        checked_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        VERIFIER,
        PRIVATE[:-1],
        PRIVATE[:-4],
        PRIVATE.replace("+AY", "+BY"),  # another type of key
        PRIVATE.replace("PeterNeumann", "Peter Neumann"),
        PRIVATE.removeprefix("PRIVATE+"),
        PRIVATE.replace("AYEK", "AY!K"),
    ],
)
def test_what_is_no_private_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_private_key(text)
    assert "AYEK" not in str(raised.value)


def test_the_id_of_a_key_depends_on_its_name() -> None:
    assert Verifier("a", bytes(32)).key_id != Verifier("b", bytes(32)).key_id
