"""A Merkle tree over the log's leaves, as in RFC 6962, section 2.1.

`hash of a node = SHA-256(0x01 ‖ left ‖ right)`; the leaves are those of `domain.log.chain`. A root
commits to the log up to its size. An inclusion proof shows that one event is in it without the
others, a consistency proof that a later root only adds to an earlier one. Verification follows
RFC 9162, sections 2.1.3.2 and 2.1.4.2, which are the same trees.

The tree is never in memory as a whole: the caller provides the hashes of complete subtrees, which
never change.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
_PAIR_BYTES: Final = 2 * HASH_BYTES
EMPTY_ROOT: Final = sha256().digest()

# The hash of a complete subtree: of 2**level leaves, the index-th of its level, both from 0.
Subtree = Callable[[int, int], bytes]


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def complete_root(hashes: bytes) -> bytes:
    """Return the hash of a complete subtree, given the concatenated hashes of one level of it."""
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), _PAIR_BYTES)
        hashes = b"".join(
            [sha256(b"\x01" + hashes[at : at + _PAIR_BYTES]).digest() for at in pairs]
        )
    return hashes


def root(subtree: Subtree, size: int) -> bytes:
    """Return the hash of the first `size` leaves."""
    return _hash_of(subtree, 0, size) if size else EMPTY_ROOT


def inclusion_proof(subtree: Subtree, index: int, size: int) -> list[bytes]:
    """Return the path from leaf number `index`, from 0, to the root of `size` leaves."""
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _largest_power_below(end - start)
        if index < middle:
            path.append(_hash_of(subtree, middle, end))
            end = middle
        else:
            path.append(_hash_of(subtree, start, middle))
            start = middle
    path.reverse()
    return path


def consistency_proof(subtree: Subtree, first: int, second: int) -> list[bytes]:
    """Return the proof that the tree of `second` leaves extends that of `first`; first > 0."""
    path: list[bytes] = []
    start, end = 0, second
    while first != end:
        middle = start + _largest_power_below(end - start)
        if first <= middle:
            path.append(_hash_of(subtree, middle, end))
            end = middle
        else:
            path.append(_hash_of(subtree, start, middle))
            start = middle
    if start:  # otherwise this is the first root, which the verifier has
        path.append(_hash_of(subtree, start, end))
    path.reverse()
    return path


def is_included(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes
) -> bool:
    """Verify a path from a leaf to the root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == expected_root


def is_consistent(
    first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Return True if the proof shows that the second tree only adds to the first.

    `first` and `second` are numbers of leaves, the roots and the hashes of `path` have 32 bytes.
    Every tree adds to the empty one, so for `first` of 0 the second root is not looked at. A proof
    that does not fit gives False; nothing is raised (RFC 9162, section 2.1.4.2).
    """
    if first == second:
        return not path and first_root == second_root
    if not 0 < first < second:
        return first == 0 and not path and first_root == EMPTY_ROOT
    hashes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not hashes:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node(sibling, old), node(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node(new, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _hash_of(subtree: Subtree, start: int, end: int) -> bytes:
    """Return the hash of the leaves from `start` to before `end`; `start` begins a subtree."""
    size = end - start
    level = size.bit_length() - 1
    if size == 1 << level:
        return subtree(level, start >> level)
    middle = start + (1 << level)
    return node(subtree(level, start >> level), _hash_of(subtree, middle, end))


def _largest_power_below(size: int) -> int:
    """Return the largest power of two below `size`, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)
