"""Whatever JSON holds comes back as the same value: as a payload, a result and an error."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import NewDatabase
from tests.support.server import FairlogServer, claim

DEPTH_MAX = 32
_numbers = itertools.count()

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64])
    | st.integers(1, 4000).map(lambda digits: -(10**digits))
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def nested(value: Any, depth: int, *, in_lists: bool) -> Any:
    for _ in range(depth):
        value = [value] if in_lists else {"": value}
    return value


@pytest.fixture(scope="module")
def client(new_database_url: NewDatabase) -> Iterator[httpx.Client]:
    """A server in a process of its own: Hypothesis objects to chance in its own process."""
    far_away = {"user_limit": 1_000_000, "global_limit": 1_000_000}
    with FairlogServer(new_database_url(), settings=far_away) as server:
        yield server.client


def canonical(value: Any) -> str:
    """Equal only for the same JSON value: 1 is not 1.0, and 0.0 not -0.0."""
    return json.dumps(value, sort_keys=True)


def goes_round(client: httpx.Client, payload: Any, outcome: Any, *, is_error: bool = False) -> None:
    """Submit a payload, claim it, end the job with an outcome, and find both as they were."""
    kind = f"kind {next(_numbers)}"
    submitted = client.post(
        "/v1/jobs",
        content=json.dumps({"user_id": "ada", "kind": kind, "payload": payload}),
    )
    assert submitted.status_code == 202, submitted.text
    assert canonical(submitted.json()["payload"]) == canonical(payload)
    [job] = claim(client, kinds=[kind])
    assert canonical(job["payload"]) == canonical(payload)
    ended = client.post(
        f"/v1/jobs/{job['id']}/{'fail' if is_error else 'complete'}",
        content=json.dumps({"attempt": 1, "error" if is_error else "result": outcome}),
    )
    assert ended.status_code == 200, ended.text
    stored = client.get(f"/v1/jobs/{job['id']}").json()
    assert canonical(stored["payload"]) == canonical(payload)
    assert canonical(stored["error" if is_error else "result"]) == canonical(outcome)


@settings(max_examples=60)
@given(payload=values, outcome=values, is_error=st.booleans())
def test_any_json_value_comes_back_as_it_went_in(
    client: httpx.Client, payload: Any, outcome: Any, *, is_error: bool
) -> None:
    goes_round(client, payload, outcome, is_error=is_error)


@pytest.mark.parametrize("in_lists", [True, False])
def test_the_deepest_value_allowed_comes_back(client: httpx.Client, *, in_lists: bool) -> None:
    deepest = nested(1, DEPTH_MAX, in_lists=in_lists)
    goes_round(client, deepest, deepest)


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "a\x00b",
        "\u2028\u2029",
        "\ufeff",
        "\uffff",
        "\U0010ffff",
        "👩‍👩‍👧‍👦",
        "עברית \u202e العربية",
        "e\u0301",
        "\u00e9",
        "'; DROP TABLE events; --",
        "%s %(a)s ? :x",
        "\\",
        '"',
        "\\u0041",
        "</script><script>",
        "\x7f\x80\x9f",
        " ",
    ],
    ids=ascii,
)
def test_a_text_comes_back_character_by_character(client: httpx.Client, text: str) -> None:
    goes_round(client, text, {text: [text]})
    goes_round(client, {text: text}, text, is_error=True)
