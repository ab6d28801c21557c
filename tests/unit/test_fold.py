"""What a rebuild's fold knows of keys that came before."""

from projections.fold import _SeenKeys

KEYS = [hash((f"user-{number % 1000}", f"key-{number}", True)) for number in range(20_000)]


def test_a_key_that_came_before_is_always_recognised() -> None:
    seen = _SeenKeys(events_expected=10)  # far too few
    for key in KEYS:
        seen.add(key)
    assert all(seen.add(key) for key in KEYS)


def test_a_new_key_is_hardly_ever_taken_for_one_that_came_before() -> None:
    seen = _SeenKeys(events_expected=2 * len(KEYS))
    assert sum(seen.add(key) for key in KEYS) < len(KEYS) / 1000
