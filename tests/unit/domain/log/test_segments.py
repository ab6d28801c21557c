from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.log.chain import GENESIS, leaf, link
from domain.log.merkle import complete_root, root
from domain.log.segments import (
    Segment,
    SegmentRows,
    SubtreeRoots,
    end_faults,
    sequence_faults,
    subtrees,
)
from domain.log.stored_log import StoredRow

LEAVES = [sha256(bytes([n])).digest() for n in range(200)]


def rows(count: int) -> list[StoredRow]:
    found: list[StoredRow] = []
    last_hash = GENESIS
    for position in range(1, count + 1):
        data = b'{"n":%d}' % position
        last_hash = link(last_hash, leaf(position, 1, b"T", b"alice", position, position, data))
        found.append((position, "T", 1, b"alice", position, position, data, last_hash))
    return found


ROWS = rows(60)


def segment(first: int, last: int) -> Segment:
    taken = SegmentRows(first, GENESIS if first == 1 else ROWS[first - 2][7])
    for row in ROWS[first - 1 : last]:
        assert taken.take(row) is None
    return Segment(
        first=first,
        last=last,
        first_recorded_at=taken.first_recorded_at,
        last_recorded_at=taken.last_recorded_at,
        previous_hash=(GENESIS if first == 1 else ROWS[first - 2][7]).hex(),
        last_hash=taken.last_hash.hex(),
        roots=taken.roots(),
        bodies=0,
        log_id="aa",
        name=f"{first}-{last}",
        size=1,
        sha256="",
    )


@given(st.integers(1, 150), st.integers(0, 49))
def test_the_roots_of_a_segment_are_those_of_the_subtrees_that_cover_it(
    first: int, more: int
) -> None:
    last = first + more
    joined = SubtreeRoots(first)
    for hashed in LEAVES[first - 1 : last]:
        joined.add(hashed)
    covering = list(subtrees(first, last))
    expected = [
        complete_root(b"".join(LEAVES[index << level : (index + 1) << level]))
        for level, index in covering
    ]
    assert joined.hashes() == expected
    covered = [
        leaf for level, index in covering for leaf in range(index << level, (index + 1) << level)
    ]
    assert covered == list(range(first - 1, last))


@given(st.lists(st.integers(1, 199), min_size=1, max_size=5, unique=True).map(sorted))
def test_the_root_of_the_log_follows_from_the_roots_of_its_segments(ends: list[int]) -> None:
    hashes: dict[tuple[int, int], bytes] = {}
    first = 1
    for end in ends:
        joined = SubtreeRoots(first)
        for hashed in LEAVES[first - 1 : end]:
            joined.add(hashed)
        hashes |= dict(zip(subtrees(first, end), joined.hashes(), strict=True))
        first = end + 1

    def subtree(level: int, index: int) -> bytes:
        if (level, index) in hashes:
            return hashes[level, index]
        return complete_root(subtree(level - 1, 2 * index) + subtree(level - 1, 2 * index + 1))

    expected = root(
        lambda level, index: complete_root(b"".join(LEAVES[index << level : (index + 1) << level])),
        ends[-1],
    )
    assert root(subtree, ends[-1]) == expected


@pytest.mark.parametrize(
    ("column", "value"),
    [(1, "U"), (2, 2), (3, b"bob"), (3, None), (4, 1), (5, 31), (6, b"{}"), (7, bytes(32)), (6, 1)],
)
def test_a_row_that_differs_in_any_column_does_not_continue_the_chain(
    column: int, value: object
) -> None:
    taken = SegmentRows(1, GENESIS)
    for row in ROWS[:29]:
        assert taken.take(row) is None
    changed = (*ROWS[29][:column], value, *ROWS[29][column + 1 :])
    assert taken.take(changed) is not None


def test_a_gap_and_a_time_that_goes_back_are_named() -> None:
    taken = SegmentRows(1, GENESIS)
    assert taken.take(ROWS[0]) is None
    assert taken.take(ROWS[2]) == "event 2 is missing: 3 follows 1"
    late = SegmentRows(2, ROWS[0][7], previous_recorded_at=9)
    assert late.take(ROWS[1]) == "event 2 is recorded earlier than the one before it"


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("last_hash", "00", "its last hash is"),
        ("roots", ["00"], "the Merkle roots"),
        ("first_recorded_at", 3, "the times"),
        ("last_recorded_at", 3, "the times"),
        ("last", 21, "it ends at event 20, and not at 21"),
        ("log_id", "bb", "its first event is not that of this log"),
    ],
)
def test_what_the_rows_of_a_segment_do_not_bear_out_is_named(
    field: str, value: object, named: str
) -> None:
    taken = SegmentRows(1, GENESIS)
    for row in ROWS[:20]:
        taken.take(row)
    right = msgspec.structs.replace(segment(1, 20), log_id=taken.log_id.hex())
    assert end_faults(right, taken) == []
    [fault] = end_faults(msgspec.structs.replace(right, **{field: value}), taken)
    assert named in fault


def test_segments_that_continue_each_other_have_no_fault() -> None:
    assert sequence_faults([segment(1, 20), segment(21, 21), segment(22, 60)]) == []
    assert sequence_faults([]) == []


def told(*segments: Segment) -> list[str]:
    return [str(fault) for fault in sequence_faults(segments)]


def test_a_missing_a_repeated_and_a_foreign_segment_are_named() -> None:
    one, two, three = segment(1, 20), segment(21, 40), segment(41, 60)
    assert told(one, three) == ["segment 41-60: events 21 to 40, before it, are in no segment"]
    assert told(two, three) == ["segment 21-40: events 1 to 20, before it, are in no segment"]
    assert told(one, two, segment(31, 60)) == [
        "segment 31-60: it begins at event 31, which is also in 21-40"
    ]
    foreign = msgspec.structs.replace(two, log_id="bb", previous_hash="11")
    assert told(one, foreign, three) == [
        "segment 21-40: it belongs to another log than the first segment",
        "segment 21-40: its events do not continue those of 1-20: the hashes differ",
    ]
    early = msgspec.structs.replace(two, first_recorded_at=1)
    assert told(one, early, three) == [
        "segment 21-40: its first event is recorded earlier than the last one of 1-20"
    ]
