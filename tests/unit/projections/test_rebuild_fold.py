"""The filter of keys that a rebuild's fold has seen."""

from domain.language.events import JobSubmitted
from domain.language.identifiers import UserId
from projections.rebuild.fold import _SeenKeys
from tests.support.given import NOW
from tests.support.stories import ECHO

SUBMISSIONS = [
    JobSubmitted(
        user_id=UserId(f"user-{number % 1000}"),
        kind=ECHO,
        payload_sha256="",
        payload_bytes=0,
        max_attempts=1,
        idempotency_key=f"key-{number}",
        key_is_explicit=True,
        key_expires_at=NOW,
    )
    for number in range(20_000)
]


def test_a_key_that_came_before_is_always_recognised() -> None:
    seen = _SeenKeys(events_expected=10)  # far too few
    list(seen.repeated(SUBMISSIONS))
    assert list(seen.repeated(SUBMISSIONS)) == SUBMISSIONS


def test_a_new_key_is_hardly_ever_taken_for_one_that_came_before() -> None:
    seen = _SeenKeys(events_expected=2 * len(SUBMISSIONS))
    assert len(list(seen.repeated(SUBMISSIONS))) < len(SUBMISSIONS) / 1000
