"""The secrets of API keys: their form, their checksum, and what of them is public."""

from hashlib import sha256

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.access.secrets import ID_BYTES, RANDOM_BYTES, digest_of, id_of, secret_of

ENTROPY_BYTES = ID_BYTES + RANDOM_BYTES
SECRET = secret_of(bytes(range(ENTROPY_BYTES)))


@for_all(entropy=st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES))
def test_every_secret_is_well_formed_and_has_its_id_in_the_clear(entropy: bytes) -> None:
    made = secret_of(entropy)
    assert len(made) == len(SECRET)
    assert id_of(made) == made.split("_")[1]


@for_all(
    one=st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES),
    other=st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES),
)
def test_different_entropy_gives_different_secrets(one: bytes, other: bytes) -> None:
    assert (secret_of(one) == secret_of(other)) == (one == other)


def test_a_secret_of_an_earlier_release_is_recognized() -> None:
    assert SECRET == "fl_001IYT0XLWR_1u8QmlquE1rQpeqoulx6MZVGVGgufeog3UsDEHmrG2p1fCWjv"
    assert digest_of(SECRET) == sha256(SECRET.encode()).hexdigest()


@pytest.mark.parametrize("at", range(len(SECRET)))
def test_a_secret_with_one_other_character_is_malformed(at: int) -> None:
    other = "x" if SECRET[at] != "x" else "y"
    assert id_of(SECRET[:at] + other + SECRET[at + 1 :]) is None


@pytest.mark.parametrize(
    "text", ["", "fl_", SECRET[:-1], f"{SECRET}0", f" {SECRET}", SECRET.upper(), f"{SECRET}\n"]
)
def test_other_texts_are_malformed(text: str) -> None:
    assert id_of(text) is None


def test_a_secret_needs_all_its_entropy() -> None:
    with pytest.raises(ValueError, match="39 bytes"):
        secret_of(bytes(39))
