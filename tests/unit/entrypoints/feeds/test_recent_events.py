from collections.abc import Iterable

from domain.log.stored_log import Leaf
from entrypoints.feeds.recent_events import RecentEvents


def leaves(first: int, last: int) -> list[Leaf]:
    return [Leaf(position, bytes(position)) for position in range(first, last + 1)]


def positions(events: Iterable[Leaf]) -> list[int]:
    return [event.position for event in events]


def test_events_are_returned_across_additions_up_to_the_limit() -> None:
    recent = RecentEvents[Leaf]()
    for first, last in ((1, 3), (4, 4), (5, 9)):
        recent.add(leaves(first, last))
    assert positions(recent.beyond(0, 100)) == list(range(1, 10))
    assert positions(recent.beyond(2, 4)) == [3, 4, 5, 6]
    assert recent.beyond(9, 100) == []


def test_nothing_is_returned_beyond_a_position_whose_next_event_is_missing() -> None:
    recent = RecentEvents[Leaf]()
    recent.add(leaves(1, 3))
    recent.add(leaves(6, 7))  # another process wrote 4 and 5
    assert recent.beyond(0, 100) == recent.beyond(3, 100) == []
    assert positions(recent.beyond(5, 100)) == [6, 7]


def test_the_oldest_additions_go_first_and_the_latest_stays() -> None:
    recent = RecentEvents[Leaf](events_max=5)
    recent.add(leaves(1, 3))
    recent.add(leaves(4, 5))
    recent.add(leaves(6, 6))
    assert recent.beyond(0, 100) == []
    assert positions(recent.beyond(3, 100)) == [4, 5, 6]
    recent.add(leaves(7, 20))
    assert positions(recent.beyond(6, 100)) == list(range(7, 21))


def test_their_bytes_are_bounded_within_an_addition_too() -> None:
    recent = RecentEvents[Leaf](bytes_max=30, size_of=lambda leaf: leaf.position)
    recent.add(leaves(1, 10))
    assert recent.beyond(6, 100) == []
    assert positions(recent.beyond(7, 100)) == [8, 9, 10]
    recent.add(leaves(11, 11))
    assert positions(recent.beyond(10, 100)) == [11]
    recent.add(leaves(12, 40))
    assert positions(recent.beyond(39, 100)) == [40]
