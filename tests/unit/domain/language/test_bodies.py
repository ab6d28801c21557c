from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.language.bodies import BODY_BYTES_MAX, DEPTH_MAX, body_of, body_of_json
from domain.language.errors import InvalidInput

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


def nested(depth: int, leaf: Any = 1) -> Any:
    """Return nested containers, lists and objects in turn."""
    value = leaf
    for level in range(depth):
        value = {"in": value} if level % 2 else [value]
    return value


@for_all(value=JSON)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    body = body_of(value, "payload")
    assert repr(msgspec.json.decode(body.data)) == repr(_sorted(value))
    assert body.sha256 == sha256(body.data).hexdigest()
    assert body.size == len(body.data)


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {key: _sorted(value[key]) for key in sorted(value, key=str.encode)}
        case list():
            return [_sorted(one) for one in value]
        case _:
            return value


def test_it_is_compact_with_sorted_keys_at_every_level() -> None:
    body = body_of({"b": [{"z": 1, "a": None}], "a": "é", "B": 1.5}, "payload")
    assert body.data == '{"B":1.5,"a":"é","b":[{"a":null,"z":1}]}'.encode()


def test_the_order_of_keys_makes_no_difference_and_that_of_lists_does() -> None:
    assert body_of({"a": 1, "b": 2}, "payload") == body_of({"b": 2, "a": 1}, "payload")
    assert body_of([1, 2], "payload") != body_of([2, 1], "payload")


def test_a_number_of_thirty_digits_keeps_them_all() -> None:
    assert body_of(10**29 + 1, "payload").data == b"100000000000000000000000000001"


def test_text_of_every_kind_passes() -> None:
    text = "\x00\x1f\u2028 مرحبا 👩‍👩‍👧 \U0010ffff"
    assert msgspec.json.decode(body_of(text, "payload").data) == text


@pytest.mark.parametrize("value", [nested(DEPTH_MAX), nested(31, leaf=[]), [[], nested(31)]])
def test_it_may_be_thirty_two_containers_deep(value: Any) -> None:
    assert body_of(value, "payload").size > DEPTH_MAX


@pytest.mark.parametrize(
    "value",
    [nested(33), nested(32, leaf=[]), nested(5000), [1, {"x": nested(31)}], nested(100_000)],
    ids=["33", "an empty one at the end", "5000", "beside others", "100000"],
)
def test_deeper_it_is_refused_with_a_sentence(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        body_of(value, "result")
    assert str(refused.value) == "The result is nested more than 32 deep; flatten it."
    assert not refused.value.is_too_large


@pytest.mark.parametrize(
    "value", [nested(DEPTH_MAX), "[" * 100, [[]] * 100, {"{": [{}, "}"] * 20}, [1, 2]]
)
def test_json_text_may_be_as_deep_as_its_value(value: Any) -> None:
    text = msgspec.json.encode(value)
    assert body_of_json(text, "payload") == body_of(value, "payload")


def test_json_text_nested_deeper_is_refused() -> None:
    with pytest.raises(InvalidInput, match="The payload is nested more than 32 deep"):
        body_of_json(msgspec.json.encode(nested(33)), "payload")


def test_it_may_have_a_mebibyte_and_not_a_byte_more() -> None:
    assert body_of("x" * (BODY_BYTES_MAX - 2), "payload").size == BODY_BYTES_MAX
    with pytest.raises(InvalidInput, match="has 1048577 bytes as compact JSON") as refused:
        body_of("x" * (BODY_BYTES_MAX - 1), "payload")
    assert refused.value.is_too_large


def test_the_size_is_that_of_the_bytes_and_not_of_the_characters() -> None:
    body_of("é" * (BODY_BYTES_MAX // 2 - 1), "payload")
    with pytest.raises(InvalidInput):
        body_of("é" * (BODY_BYTES_MAX // 2), "payload")


def test_lone_surrogates_are_refused_with_a_sentence() -> None:
    with pytest.raises(InvalidInput, match="lone surrogates"):
        body_of({"deep": ["\ud800"]}, "payload")
    with pytest.raises(InvalidInput, match="lone surrogates"):
        body_of({"\udfff": 1}, "payload")
