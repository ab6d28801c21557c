import msgspec
import pytest

from entrypoints.runtime.text import is_plain_error, text_of, traceback_of
from fairlog_client.worker.error_bodies import error_of


def body(value: object) -> bytes:
    return msgspec.json.encode(value)


def fail(message: str) -> None:
    raise ValueError(message)


def raised(message: str) -> bytes:
    try:
        fail(message)
    except ValueError as error:
        return error_of(error)
    raise AssertionError


@pytest.mark.parametrize("message", ["torn", "torn\nand worn", ""])
def test_a_traceback_is_shown_without_the_lines_that_name_the_exception(message: str) -> None:
    shown = traceback_of(raised(message))
    assert shown.startswith("Traceback (most recent call last):\n  File")
    assert shown.endswith("raise ValueError(message)")


def test_a_stack_whose_frames_come_last_is_shown_whole() -> None:
    stack = "Error: torn\n    at work (worker.mjs:3:9)"
    assert traceback_of(body({"message": "torn", "traceback": stack})) == stack


@pytest.mark.parametrize("error", ["torn", {"message": "torn"}, {"traceback": 5}, None, [1]])
def test_an_error_without_a_traceback_shows_none(error: object) -> None:
    assert traceback_of(body(error)) == ""


def test_a_traceback_without_frames_is_shown_whole() -> None:
    assert traceback_of(body({"message": "m", "traceback": "no frames\nat all"})) == (
        "no frames\nat all"
    )


def test_jobs_with_the_same_error_are_found_by_its_message() -> None:
    assert text_of(raised("torn")) == "torn"
    assert text_of(body("torn")) == "torn"
    assert text_of(body({"code": 7})) == ""
    assert len(text_of(body("x" * 5000))) == 200


def test_an_error_with_fields_of_its_own_is_not_plain() -> None:
    assert is_plain_error(raised("torn"))
    assert is_plain_error(body("torn"))
    assert not is_plain_error(body({"message": "torn", "code": 7}))
    assert not is_plain_error(body({"message": "x" * 5000}))
    assert not is_plain_error(body([1]))
