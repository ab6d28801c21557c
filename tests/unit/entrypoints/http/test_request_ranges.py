"""A number out of its range is refused with a sentence that says the range."""

from typing import Any

import pytest

from domain.language.errors import InvalidInput
from entrypoints.http.limit_requests import KindChange, LimitChange
from entrypoints.http.requests import (
    BulkRetry,
    ClaimRequest,
    Heartbeat,
    Submission,
)
from entrypoints.http.strict_json import read_json

SUBMISSION = b'{"user_id": "ada", "kind": "echo", "payload": 1, "%s": %s}'


@pytest.mark.parametrize(
    ("expected", "body", "sentence"),
    [
        (
            Submission,
            SUBMISSION % (b"priority", b"1001"),
            "priority is a whole number from -1000 to",
        ),
        (
            Submission,
            SUBMISSION % (b"max_attempts", b"0"),
            "max_attempts is a whole number from 1 to",
        ),
        (
            Submission,
            SUBMISSION % (b"priority", b"-1" + b"0" * 30),
            "priority is a whole number from",
        ),
        (BulkRetry, b'{"limit": 1001}', "limit is a whole number from 1 to 1000."),
        (ClaimRequest, b'{"worker": "w", "max": -1}', "max is a whole number from 0 to 1000."),
        (
            ClaimRequest,
            b'{"worker": "w", "begins": -1}',
            "begins is a whole number from 0 to 1000.",
        ),
        (
            Heartbeat,
            b'{"worker": "w", "jobs": [], "wait_seconds": 30.1}',
            "wait_seconds is a number from 0 to 30.",
        ),
        (LimitChange, b'{"running": -1}', "running is a whole number from 0 to 1000000000."),
        (LimitChange, b'{"limit": 1000000001}', "limit is a whole number from 0 to 1000000000."),
        (KindChange, b'{"running": -1}', "running is a whole number from 0 to 1000000000."),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    expected: Any, body: bytes, sentence: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_json(body, expected)
    assert str(refused.value).startswith(sentence)


def test_a_number_of_the_wrong_type_is_refused_with_its_type() -> None:
    with pytest.raises(InvalidInput, match="priority: Expected `int`, got `str`"):
        read_json(SUBMISSION % (b"priority", b'"1"'), Submission)
