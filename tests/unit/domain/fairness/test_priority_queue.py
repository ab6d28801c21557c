from hypothesis import given
from hypothesis import strategies as st

from domain.fairness.priority_queue import PriorityQueue

KEYS = st.sampled_from("abcdefgh")
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 99))), max_size=300)


@given(changes=CHANGES, read=st.integers(0, 9))
def test_keys_come_in_the_order_of_their_latest_priorities(
    changes: list[tuple[str, int | None]], read: int
) -> None:
    queue: PriorityQueue[str, tuple[int, str]] = PriorityQueue()
    expected: dict[str, tuple[int, str]] = {}
    for key, priority in changes:
        if priority is None:
            queue.discard(key)
            expected.pop(key, None)
        else:
            queue.put(key, (priority, key))
            expected[key] = (priority, key)
        in_order = sorted((priority, key) for key, priority in expected.items())
        first = [entry for entry, _ in zip(queue.in_order(), range(read), strict=False)]
        assert first == in_order[:read]
        assert len(queue) == len(expected)


def test_what_is_changed_very_often_takes_no_more_memory() -> None:
    queue: PriorityQueue[str, int] = PriorityQueue()
    for priority in range(10_000):
        queue.put("a", priority)
        queue.put("b", -priority)
    assert list(queue.in_order()) == [(-9_999, "b"), (9_999, "a")]
    assert len(queue._heap) < 100
