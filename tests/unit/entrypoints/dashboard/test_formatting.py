from datetime import timedelta

import msgspec
import pytest

from entrypoints.dashboard import formatting
from entrypoints.runtime.text import message_of, visible
from tests.support.clock import NOON


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (-1, "0 s"),
        (0.0042, "0.004 s"),
        (0.012, "0.01 s"),
        (0.85, "0.85 s"),
        (4.21, "4.2 s"),
        (12.4, "12 s"),
        (59.6, "1 m"),
        (200, "3 m 20 s"),
        (3600, "1 h"),
        (9000, "2 h 30 m"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_have_their_largest_two_units(seconds: float | None, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_the_exact_duration_has_milliseconds() -> None:
    assert formatting.exact(12345.6789) == "12,345.679 s"
    assert formatting.exact(None) == "not known"


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0 s"), (59.9, "59 s"), (3725, "1 h 2 m")])
def test_an_age_has_whole_seconds(seconds: float, text: str) -> None:
    assert formatting.age(NOON, NOON + timedelta(seconds=seconds)) == text


def test_one_thing_is_counted_in_the_singular() -> None:
    assert formatting.counted(1, "job waits", "jobs wait") == "1 job waits"
    assert formatting.counted(0, "job waits", "jobs wait") == "0 jobs wait"
    assert formatting.counted(1200, "job waits", "jobs wait") == "1,200 jobs wait"


def test_long_json_is_clipped_and_says_so() -> None:
    text, is_clipped = formatting.pretty_json(msgspec.json.encode("x" * 1_000_000))
    assert is_clipped
    assert len(text) == formatting.JSON_CHARACTERS_MAX
    assert formatting.pretty_json(b'{"a":1}') == ('{\n  "a": 1\n}', False)


def test_characters_that_turn_text_are_shown_as_what_they_are() -> None:
    text, _ = formatting.pretty_json(msgspec.json.encode({"a": "\u202eevil"}))
    assert "\u202e" not in text
    assert msgspec.json.decode(text) == {"a": "\u202eevil"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("it broke", "it broke"),
        ({"message": "it broke"}, "it broke"),
        ({"type": "ValueError", "message": "it broke", "traceback": "…"}, "ValueError: it broke"),
        ({"code": 7}, '{"code":7}'),
    ],
)
def test_an_error_is_told_in_a_line(error: object, message: str) -> None:
    assert message_of(msgspec.json.encode(error)) == message


def test_an_event_is_told_in_a_line_without_what_stands_beside_it() -> None:
    event = {"type": "JobStarted", "user_id": "alice", "attempt": 2, "worker": "w"}
    assert formatting.brief_json(msgspec.json.encode(event)) == "attempt=2 worker=w"


def test_what_nobody_can_see_is_shown_as_what_it_is() -> None:
    for character in "\x00\x1b\x7f\x85\x9b\u061c\u200e\u200f\u2028\u202e\u2066\u2069":
        assert visible(f"a{character}b") == f"a\\u{ord(character):04x}b"
    assert visible("é\n\t日 👩‍🔬") == "é\n\t日 👩‍🔬"
