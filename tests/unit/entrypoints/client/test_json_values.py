import dataclasses
import enum
from collections import OrderedDict, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from domain.language.bodies import DEPTH_MAX, body_of
from fairlog_client.worker.bodies import InvalidValue
from fairlog_client.worker.json_values import check_json

Point = namedtuple("Point", "x y")  # noqa: PYI024 (as users make them)


@dataclasses.dataclass
class Size:
    width: int


class Row(msgspec.Struct):
    width: int


class Colour(enum.StrEnum):
    RED = "red"


class Number(float):
    """A subclass of float, as NumPy's float64 is."""


def refusal(value: Any) -> str:
    with pytest.raises(InvalidValue) as caught:
        check_json(value, "result")
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        10**30,
        -1.5,
        1e308,
        "",
        "text",
        [],
        {},
        (),
        [1, (2, [None])],
        {"a b": {"": [{"c": 1.0}]}},
        OrderedDict(a=1),
    ],
)
def test_what_json_holds_is_accepted_and_comes_back_equal_but_for_tuples(value: Any) -> None:
    check_json(value, "result")

    def with_lists(found: Any) -> Any:
        match found:
            case dict():
                return {key: with_lists(child) for key, child in found.items()}
            case list() | tuple():
                return [with_lists(child) for child in found]
        return found

    assert msgspec.json.decode(body_of(value, "result").data) == with_lists(value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), "result is NaN, which JSON cannot hold."),
        ({"loss": float("nan")}, "result.loss is NaN, which JSON cannot hold."),
        ({"a": [0, {"b c": float("-inf")}]}, "result.a[1]['b c'] is -Infinity, which"),
        ((1.0, float("inf")), "result[1] is Infinity, which JSON cannot hold."),
        (
            {"n": Decimal("NaN")},
            "result.n is of type Decimal, which JSON cannot hold as it is",
        ),
        ([{1, 2}], "result[0] is of type set, which JSON cannot hold as it is; use sorted()"),
        (frozenset(), "result is of type frozenset"),
        (
            {"b": b"\x00"},
            "result.b is of type bytes, which JSON cannot hold as it is; ",
        ),
        (datetime(2026, 1, 1, tzinfo=UTC), "result is of type datetime"),
        (UUID(int=0), "result is of type UUID"),
        ([Size(1)], "result[0] is of type Size"),
        (Row(1), "result is of type Row"),
        (Point(1, 2), "result is of type Point"),
        (Colour.RED, "result is of type Colour"),
        ({"x": Number(1.0)}, "result.x is of type Number"),
        ({"rows": {3: "x"}}, "result.rows has a key of type int, and the keys of JSON are text"),
        (object(), "result is of type object"),
        (iter([]), "result is of type list_iterator"),
    ],
)
def test_what_json_cannot_hold_is_named_with_its_place(value: Any, sentence: str) -> None:
    assert refusal(value).startswith(sentence)


def test_a_value_in_itself_or_in_very_many_places_is_refused_without_following_each() -> None:
    in_itself: dict[str, Any] = {}
    in_itself["again"] = in_itself
    assert "nested more than" in refusal(in_itself)
    twice_in_itself: list[Any] = []
    twice_in_itself += [twice_in_itself, twice_in_itself]
    assert "more than" in refusal(twice_in_itself)
    doubled: list[Any] = []
    for _ in range(DEPTH_MAX - 1):
        doubled = [doubled, doubled]
    assert "values in it" in refusal(doubled)


def test_a_long_path_is_told_by_its_ends() -> None:
    message = refusal({"k" * 5000: {"loss": float("nan")}})
    assert len(message) < 300
    assert "….loss is NaN" in message or "loss is NaN" in message
