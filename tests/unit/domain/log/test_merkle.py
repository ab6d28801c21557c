"""The Merkle tree against RFC 6962, section 2.1: its definition, and vectors of others."""

from hashlib import sha256

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.log.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    is_included,
    node,
    root,
)

SIZES = st.integers(1, 70)


def split(size: int) -> int:
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def tree_hash(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def audit_path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), tree_hash(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), tree_hash(leaves[:k])]


def consistency(m: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [tree_hash(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*consistency(m, leaves[:k], whole=whole), tree_hash(leaves[k:])]
    return [*consistency(m - k, leaves[k:], whole=False), tree_hash(leaves[:k])]


class Tree:
    """Complete subtrees of the leaves, each given by the definition."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves

    def __call__(self, level: int, index: int) -> bytes:
        part = self.leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "not complete"
        return tree_hash(part)


def leaves_of(size: int) -> list[bytes]:
    return [sha256(b"\x00" + str(number).encode()).digest() for number in range(size)]


# The tree of certificate-transparency's own tests (merkle_tree_test.cc, and trillian after it).
CT_INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_LEAVES = [sha256(b"\x00" + bytes.fromhex(data)).digest() for data in CT_INPUTS]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert root(Tree([]), 0) == EMPTY_ROOT == sha256(b"").digest()


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert root(Tree(CT_LEAVES), size).hex() == CT_ROOTS[size - 1]


def test_the_proofs_are_those_of_certificate_transparency() -> None:
    proof = inclusion_proof(Tree(CT_LEAVES), 5, 8)
    assert [one.hex() for one in proof] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    between = consistency_proof(Tree(CT_LEAVES), 6, 8)
    assert [one.hex() for one in between] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", range(1, 34))
def test_roots_and_paths_are_those_of_the_definition(size: int) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)
    assert root(tree, size) == tree_hash(leaves)
    for index in range(size):
        path = inclusion_proof(tree, index, size)
        assert path == audit_path(index, leaves)
        assert is_included(leaves[index], index, size, path, root(tree, size))
    for first in range(1, size + 1):
        path = consistency_proof(tree, first, size)
        assert path == consistency(first, leaves)
        assert is_consistent(first, size, root(tree, first), root(tree, size), path)


@for_all(size=SIZES, data=st.data())
def test_with_anything_changed_an_inclusion_proof_fails(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_proof(tree, index, size)
    whole = root(tree, size)
    other = bytes(32)
    assert not is_included(other, index, size, path, whole)
    assert not is_included(leaves[index], index, size, path, other)
    assert not is_included(leaves[index], index, size, [*path, other], whole)
    assert not is_included(leaves[index], size, size, path, whole)
    assert not is_included(leaves[index], -1, size, path, whole)
    for at in range(len(path)):
        assert not is_included(leaves[index], index, size, path[:at] + path[at + 1 :], whole)
        changed = [*path[:at], other, *path[at + 1 :]]
        assert not is_included(leaves[index], index, size, changed, whole)
    for elsewhere in range(size):
        if elsewhere != index:
            assert not is_included(leaves[index], elsewhere, size, path, whole)


@for_all(first=SIZES, more=st.integers(1, 70))
def test_with_anything_changed_a_consistency_proof_fails(first: int, more: int) -> None:
    second = first + more
    tree = Tree(leaves_of(second))
    old, new = root(tree, first), root(tree, second)
    path = consistency_proof(tree, first, second)
    other = bytes(32)
    assert not is_consistent(first, second, other, new, path)
    assert not is_consistent(first, second, old, other, path)
    assert not is_consistent(first, second, old, new, [*path, other])
    assert not is_consistent(second, first, new, old, path)
    for at in range(len(path)):
        assert not is_consistent(first, second, old, new, path[:at] + path[at + 1 :])
        assert not is_consistent(first, second, old, new, [*path[:at], other, *path[at + 1 :]])


def test_the_smallest_proofs() -> None:
    one, two = leaves_of(2)
    assert is_included(one, 0, 1, [], one)
    assert is_consistent(0, 5, EMPTY_ROOT, two, [])
    assert not is_consistent(0, 5, one, two, [])
    assert not is_consistent(3, 5, one, two, [])
    assert is_consistent(1, 1, one, one, [])
    assert not is_consistent(1, 1, one, two, [])
    assert not is_consistent(1, 1, one, one, [two])
    assert not is_included(one, 0, 0, [], one)
    assert is_included(one, 0, 2, [two], node(one, two))
