"""/schema documents every field and every parameter, with its bounds and its default."""

from collections.abc import Iterator
from typing import Any

import pytest

from adapters.settings import Settings
from entrypoints.http.operation_names import OPERATIONS
from tests.conftest import NewDatabase
from tests.support.clock import NOON, ManualClock
from tests.support.server import AppServer

UNBOUNDED = ["LegacyAnswer.job_id"]  # repeats whatever number was asked for
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


@pytest.fixture(scope="module")
def schema(new_database_url: NewDatabase) -> dict[str, Any]:
    with AppServer(new_database_url(), Settings(), ManualClock(NOON)) as server:
        described: dict[str, Any] = server.client.get("/schema").json()
    return described


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, component in schema["components"]["schemas"].items():
        for field, described in component.get("properties", {}).items():
            yield f"{name}.{field}", described


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, calls in schema["paths"].items():
        for method, operation in calls.items():
            yield f"{method} {path}", operation


def parameters(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, operation in operations(schema):
        for parameter in operation.get("parameters", ()):
            yield f"{name} {parameter['name']}", parameter


def numbers_without_bounds(described: dict[str, Any]) -> bool:
    """Return True if a number in it has neither a least nor a greatest value."""
    if described.keys() & BOUNDS:
        return False
    if described.get("type") in {"integer", "number"}:
        return True
    inner = [described.get("items"), described.get("additionalProperties")]
    parts = [*described.get("anyOf", ()), *described.get("oneOf", ()), *inner]
    return any(numbers_without_bounds(part) for part in parts if isinstance(part, dict))


def requests(schema: dict[str, Any]) -> set[str]:
    """Name the components that clients send, those within others among them."""
    found: set[str] = set()
    waiting: list[Any] = [
        operation["requestBody"]
        for _, operation in operations(schema)
        if "requestBody" in operation
    ]
    while waiting:
        match waiting.pop():
            case {"$ref": str(reference)}:
                name = reference.rpartition("/")[2]
                if name not in found:
                    found.add(name)
                    waiting.append(schema["components"]["schemas"][name])
            case dict() as described:
                waiting.extend(described.values())
            case list() as parts:
                waiting.extend(parts)
    return found


def test_every_component_says_what_it_is(schema: dict[str, Any]) -> None:
    components = schema["components"]["schemas"]
    assert [name for name, one in components.items() if not one.get("description")] == []


def test_every_field_says_what_it_means(schema: dict[str, Any]) -> None:
    assert [name for name, one in properties(schema) if not one.get("description")] == []


def test_every_call_has_a_name_and_a_title_of_its_own(schema: dict[str, Any]) -> None:
    found = [(one["operationId"], one["summary"]) for _, one in operations(schema)]
    assert sorted(found) == sorted(tuple(one) for one in OPERATIONS.values())
    assert len({name for name, _ in found}) == len(found)


def test_every_number_in_a_field_has_a_bound(schema: dict[str, Any]) -> None:
    found = [name for name, one in properties(schema) if numbers_without_bounds(one)]
    assert found == UNBOUNDED


def test_every_field_that_a_request_may_leave_out_says_what_it_is_then(
    schema: dict[str, Any],
) -> None:
    sent = requests(schema)
    assert "Submission" in sent
    optional = {
        f"{name}.{field}": described
        for name in sent
        for field, described in schema["components"]["schemas"][name].get("properties", {}).items()
        if field not in schema["components"]["schemas"][name].get("required", ())
    }
    changes = ("LimitChange", "StartLimitChange", "KindChange")
    stay_as_they_are = {name for name in optional if name.partition(".")[0] in changes}
    stay_as_they_are.add("OutcomeOfJob.error")
    assert {name for name, one in optional.items() if "default" not in one} == stay_as_they_are


def test_every_call_says_what_it_does(schema: dict[str, Any]) -> None:
    assert [name for name, one in operations(schema) if not one.get("description")] == []


def test_every_parameter_says_what_it_means(schema: dict[str, Any]) -> None:
    assert [name for name, one in parameters(schema) if not one.get("description")] == []


def test_every_number_in_a_parameter_has_a_bound(schema: dict[str, Any]) -> None:
    unbounded = [name for name, one in parameters(schema) if numbers_without_bounds(one["schema"])]
    assert unbounded == []


def test_a_submission_is_described_with_its_ranges_and_defaults(schema: dict[str, Any]) -> None:
    described = schema["components"]["schemas"]["Submission"]
    assert set(described["required"]) == {"user_id", "kind", "payload"}
    submission = described["properties"]
    assert submission["user_id"]["maxLength"] == 255
    priority = submission["priority"]
    assert (priority["minimum"], priority["maximum"], priority["default"]) == (-1000, 1000, 0)
    attempts, null = submission["max_attempts"]["anyOf"]
    assert (attempts["minimum"], attempts["maximum"], null) == (1, 1000, {"type": "null"})
    timeout = submission["timeout_seconds"]["anyOf"][0]
    assert (timeout["exclusiveMinimum"], timeout["maximum"]) == (0, 604_800)
