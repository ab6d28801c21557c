from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX

Check = Callable[[str], str]
NAMES: list[Check] = [
    validation.user_id,
    validation.kind,
    validation.worker_id,
    validation.idempotency_key,
    validation.claim_id,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a ",
        " a",
        "A",
        "0",
        "x" * 255,
        "é" * 127,
        "👩‍👩‍👧",
        "مرحبا",
        "\u202eevil",
        "ünïcödé",
        "a/b?c#d%",
        "'; DROP TABLE events; --",
        "\\",
        "\u2028",
        "\ufeff",
        "\U0010ffff",
    ],
)
def test_a_name_is_taken_as_it_is_byte_for_byte(name: Check, text: str) -> None:
    assert name(text) == text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must have 1 to 255 bytes of UTF-8; this one has 0."),
        ("x" * 256, "must have 1 to 255 bytes of UTF-8; this one has 256."),
        ("x" * 300, "must have 1 to 255 bytes of UTF-8; this one has 300."),
        ("é" * 128, "must have 1 to 255 bytes of UTF-8; this one has 256."),
        ("a\x00b", "must hold no control characters."),
        ("\x00", "must hold no control characters."),
        ("a\nb", "must hold no control characters."),
        ("\t", "must hold no control characters."),
        ("a\x7f", "must hold no control characters."),
        ("\x85", "must hold no control characters."),
        ("\ud800", "must be valid Unicode, without lone surrogates."),
        ("a\udfffb", "must be valid Unicode, without lone surrogates."),
    ],
)
def test_what_is_no_name_is_refused_with_a_sentence(name: Check, text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=r"^A [a-z ]+ ") as refused:
        name(text)
    assert str(refused.value).endswith(sentence)


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (validation.job_id, [1, POSITION_MAX], [0, -1, POSITION_MAX + 1, 2**63, 10**30]),
        (
            validation.timeout_seconds,
            [0.001, 1, 604_800],
            [0, -1, 604_800.1, float("nan"), float("inf"), float("-inf")],
        ),
    ],
)
def test_numbers_have_their_ranges_with_both_ends(
    check: Callable[[Any], Any], accepted: list[float], refused: list[float]
) -> None:
    assert [check(number) for number in accepted] == accepted
    for number in refused:
        with pytest.raises(InvalidInput):
            check(number)


def test_a_moment_is_in_utc_from_then_on() -> None:
    east = datetime(2026, 1, 1, 14, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    moment = validation.moment(east, "run_at")
    assert moment == datetime(2026, 1, 1, 9, tzinfo=UTC)
    assert moment.tzinfo is UTC
    assert type(moment) is datetime


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (datetime(2026, 1, 1), "run_at needs an offset: 2026-01-31T12:00:00Z."),  # noqa: DTZ001 (that is the point)
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "between the years 1970 and 9000."),
        (datetime.min.replace(tzinfo=UTC), "between the years 1970 and 9000."),
        (datetime.max.replace(tzinfo=UTC), "between the years 1970 and 9000."),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "1970 and 9000."),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))), "1970 and 9000."),
    ],
)
def test_what_is_no_moment_is_refused_with_a_sentence(value: datetime, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validation.moment(value, "run_at")
    assert str(refused.value).endswith(sentence)
