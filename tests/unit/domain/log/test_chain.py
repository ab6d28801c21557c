"""The chain: a second implementation of the rule in `domain/log/chain.py`, and fixed vectors."""

import hashlib
import struct

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.log import chain

Entry = tuple[int, int, bytes, bytes | None, int | None, int, bytes]


def field(value: int | bytes | None) -> bytes:
    match value:
        case None:
            return struct.pack(">I", 0xFFFFFFFF)
        case int():
            return struct.pack(">IQ", 8, value)
        case bytes():
            return struct.pack(">I", len(value)) + value


def expected_leaf(entry: Entry) -> bytes:
    return hashlib.sha256(b"\x00" + b"".join(field(value) for value in entry)).digest()


POSITIONS = st.integers(1, 2**63 - 1)
ENTRIES = st.tuples(
    POSITIONS,
    st.integers(1, 2**31),
    st.binary(min_size=1, max_size=64),
    st.none() | st.binary(max_size=255),
    st.none() | POSITIONS,
    st.integers(0, 2**53),
    st.binary(max_size=300),
)


@for_all(entry=ENTRIES)
def test_a_leaf_is_what_the_design_says(entry: Entry) -> None:
    assert chain.leaf(*entry) == expected_leaf(entry)


@for_all(previous=st.binary(min_size=32, max_size=32), leaf=st.binary(min_size=32, max_size=32))
def test_a_link_is_what_the_design_says(previous: bytes, leaf: bytes) -> None:
    assert chain.link(previous, leaf) == hashlib.sha256(previous + leaf).digest()


def test_the_chain_begins_with_32_zero_bytes() -> None:
    assert chain.GENESIS == b"\x00" * 32


FIRST: Entry = (
    1,
    1,
    b"RateLimitDecided",
    b"alice",
    2,
    1_700_000_040_000_000,
    b'{"type":"RateLimitDecided","user_id":"alice","scope":"user","allowed":true,"used":1}',
)
SECOND: Entry = (
    2,
    1,
    b"JobSubmitted",
    "zoë👩".encode(),
    2,
    1_700_000_040_000_000,
    b'{"type":"JobSubmitted"}',
)
THIRD: Entry = (3, 1, b"LeasesExtended", None, None, 1_700_000_040_000_001, b"")
EMPTY_USER: Entry = (3, 1, b"LeasesExtended", b"", None, 1_700_000_040_000_001, b"")

# Worked out once with `sha256sum`; the format is fixed from the first row on.
LEAVES = [
    (FIRST, "a1aedc14e16f9c33da820db1f2921c606de0d846ed64d8ee50515b869bbfd3d7"),
    (SECOND, "9045b08668ac3f593499e99d1d820a8262faf3443c489efc83ba22a410009abd"),
    (THIRD, "5aa9a22b4e0a155e4a21c4ac95e8fd6f5bda612e377833479752364eaff3244f"),
    (EMPTY_USER, "23efaa93479440369de1960c4d48f865bed1d3011e8996f2c41f08c95cb11b24"),
]
HASHES = [
    "9886aa96762148f46236d81f94e0408d1b8cf16562c1f7dba8d1bfe1d4476b34",
    "083026ffa46d73653d60cc7b74cee1631ae2a1f0ee9bb28e3de916b3f1d070b6",
    "28a0330e9366ac5fc293e2d00e7c60cd7f2195d808bf841544c08cc92116f94e",
]


@pytest.mark.parametrize(("entry", "leaf"), LEAVES)
def test_leaves_are_those_of_the_vectors(entry: Entry, leaf: str) -> None:
    assert chain.leaf(*entry).hex() == leaf


def test_hashes_are_those_of_the_vectors() -> None:
    tail = chain.GENESIS
    for entry, expected in zip([FIRST, SECOND, THIRD], HASHES, strict=True):
        tail = chain.link(tail, chain.leaf(*entry))
        assert tail.hex() == expected


def test_the_bytes_under_a_leaf_written_out() -> None:
    written = """
        00
        00000008 0000000000000003
        00000008 0000000000000001
        0000000e 4c6561736573457874656e646564
        ffffffff
        ffffffff
        00000008 00060a241a809a01
        00000000
    """
    assert chain.leaf(*THIRD) == hashlib.sha256(bytes.fromhex(written)).digest()


@for_all(entry=ENTRIES, other=ENTRIES)
def test_other_entries_have_other_leaves(entry: Entry, other: Entry) -> None:
    assert (chain.leaf(*entry) == chain.leaf(*other)) == (entry == other)
