"""Delays between attempts: each backoff by example, and for all policies their bounds."""

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.language.errors import InvalidInput
from domain.language.limits import RetryPolicy, delay_range, resolved_retry
from domain.language.retry_fields import RetryFields, retry_fields

POLICIES = st.builds(
    RetryPolicy,
    backoff=st.sampled_from(["constant", "linear", "exponential"]),
    base_seconds=st.floats(0, 31_622_400),
    factor=st.floats(1, 100),
    maximum_seconds=st.floats(0, 31_622_400),
    jitter=st.floats(0, 1),
)


def full_delays(**said: object) -> list[float]:
    policy = msgspec.convert({"jitter": 0.0} | said, RetryPolicy)
    return [delay_range(policy, failures).most for failures in range(5)]


@pytest.mark.parametrize(
    ("said", "delays"),
    [
        ({}, [1, 2, 4, 8, 16]),
        ({"backoff": "constant", "base_seconds": 30}, [30, 30, 30, 30, 30]),
        ({"backoff": "linear", "base_seconds": 30}, [30, 60, 90, 120, 150]),
        ({"backoff": "linear", "base_seconds": 30, "maximum_seconds": 100}, [30, 60, 90, 100, 100]),
        ({"base_seconds": 10, "factor": 3}, [10, 30, 90, 270, 810]),
        ({"base_seconds": 10, "factor": 3, "maximum_seconds": 100}, [10, 30, 90, 100, 100]),
        ({"factor": 1}, [1, 1, 1, 1, 1]),
        ({"base_seconds": 0}, [0, 0, 0, 0, 0]),
        # A maximum that somebody else said never shortens the first delay.
        ({"base_seconds": 7200}, [7200, 7200, 7200, 7200, 7200]),
    ],
    ids=str,
)
def test_each_backoff_grows_as_it_says(said: dict[str, object], delays: list[float]) -> None:
    assert full_delays(**said) == delays


@pytest.mark.parametrize(("jitter", "least"), [(0.0, 8), (0.25, 6), (1.0, 0)])
def test_jitter_takes_off_at_most_its_part(jitter: float, least: float) -> None:
    assert delay_range(RetryPolicy(base_seconds=8.0, jitter=jitter), 0) == (least, 8)


@for_all(policy=POLICIES, failures=st.integers(0, 1000))
def test_delays_never_shrink_and_never_leave_their_bounds(
    policy: RetryPolicy, failures: int
) -> None:
    least, most = delay_range(policy, failures)
    base, maximum = policy.base_seconds, policy.maximum_seconds
    assert base is not None
    assert maximum is not None
    assert 0 <= least <= most <= max(base, maximum)
    assert most >= base
    assert delay_range(policy, failures + 1).most >= most


def test_each_field_comes_from_the_first_who_says_it() -> None:
    submission = RetryPolicy(attempts=9, base_seconds=5.0)
    kind = RetryPolicy(base_seconds=60.0, factor=3.0, never=("Rejected",))
    server = RetryPolicy(factor=4.0, jitter=0.0)
    assert resolved_retry(submission, kind, server) == RetryPolicy(
        base_seconds=5.0, factor=3.0, jitter=0.0, never=("Rejected",)
    )


def test_a_policy_that_says_only_defaults_is_the_default() -> None:
    assert resolved_retry(None, RetryPolicy(attempts=9, base_seconds=1.0, never=()), None) is None
    # What the submission says holds, although a default further on is another.
    assert resolved_retry(RetryPolicy(factor=2.0), RetryPolicy(factor=4.0)) is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"attempts": 0}, "retry.attempts is a whole number from 1 to 1000."),
        ({"attempts": 1001}, "retry.attempts is a whole number from 1 to 1000."),
        ({"backoff": "fast"}, "retry.backoff is constant, linear or exponential."),
        ({"base_seconds": -1}, "retry.base_seconds is a number from 0 to 31622400."),
        ({"base_seconds": float("nan")}, "retry.base_seconds is a number from 0 to 31622400."),
        ({"factor": 0.5}, "retry.factor is a number from 1 to 100."),
        ({"maximum_seconds": 1e9}, "retry.maximum_seconds is a number from 0 to 31622400."),
        ({"jitter": 1.5}, "retry.jitter is a number from 0 to 1."),
        (
            {"base_seconds": 60, "maximum_seconds": 30},
            "retry.maximum_seconds must not be below retry.base_seconds.",
        ),
        ({"never": ["x"] * 1000 + [str(n) for n in range(20)]}, "at most 20 types of errors."),
        ({"never": [""]}, "A type of error in retry.never must have 1 to 255 bytes"),
        ({"never": ["a\nb"]}, "A type of error in retry.never must hold no control characters."),
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_is_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidInput) as error:
        msgspec.convert(fields, RetryFields).to_policy()
    assert sentence in str(error.value)


def test_a_policy_is_shown_in_full() -> None:
    assert retry_fields(None) is None
    shown = retry_fields(RetryPolicy(base_seconds=30.0, never=("Rejected",)))
    assert msgspec.json.decode(msgspec.json.encode(shown)) == {
        "backoff": "exponential",
        "base_seconds": 30.0,
        "factor": 2.0,
        "maximum_seconds": 3600.0,
        "jitter": 0.5,
        "never": ["Rejected"],
    }
