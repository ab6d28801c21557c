"""Log lines as people see them."""

from typing import Any

from fairlog_client.logs.text import TextRenderer


def rendered(**event: Any) -> str:
    in_colour = event.pop("in_colour", False)
    fields = {"timestamp": "2026-01-31T12:00:00.123456Z", "level": "info", **event}
    return TextRenderer(in_colour=in_colour)(None, "info", fields)


def test_a_line_has_time_level_event_and_fields() -> None:
    assert rendered(
        event="attempt_failed", job=7, kinds=["echo", "fail"], reason="no such file"
    ) == (
        "2026-01-31T12:00:00Z info    attempt failed        job=7  kinds=echo,fail  "
        'reason="no such file"'
    )


def test_a_traceback_is_below_its_line() -> None:
    line, *below = rendered(event="failed", exception="Traceback:\n  a\nValueError: x").splitlines()
    assert line.endswith("failed")
    assert below == ["    Traceback:", "      a", "    ValueError: x"]


def test_what_a_user_sends_cannot_move_the_cursor_or_begin_a_line() -> None:
    shown = rendered(event="refused", user="a\x1b[2J\nb\u202e", **{"k\n": "1"})
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert "\\x1b[2J\\nb\\u202e" in shown


def test_colours_are_for_terminals() -> None:
    assert "\x1b[31m" in rendered(in_colour=True, event="failed", level="error")
    assert "\x1b" not in rendered(event="failed", level="error")
