"""Requests that Schemathesis makes from the page /schema, with a key of each role and with none.

Each answer must be one that the page describes: its status, media type, header fields and body.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.result import Ok

from adapters.settings import Settings
from adapters.signing_key import create_signing_key
from tests.conftest import NewDatabase
from tests.support.given import NOW, at
from tests.support.keyed_server import ALICE, BOB, ECHO, ROLES, WORKER, KeyedServer, keyed_server
from tests.support.keys import secret
from tests.support.mariadb import OTHER_SERVER

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS: Final = "/v1/stream"
# Calls about an attempt that a worker holds, which is never the one that is made up.
OUTCOMES: Final = ["POST /v1/jobs/{job_id}/complete", "POST /v1/jobs/{job_id}/fail"]
# Its parameter has slashes, which a client that fills in a path has to encode.
TILES: Final = "GET /tile/{path}"
HOURLY: Final[dict[str, Any]] = {"every_seconds": 3600, "cron": None, "time_zone": "UTC"}
CALLBACK: Final[dict[str, Any]] = {"url": "https://a.example/", "kinds": [], "users": []}
# Requests of each call: what the page allows, and what it does not. Fewer with the other keys, to
# which less is answered.
EXAMPLES: Final = {GenerationMode.POSITIVE: 2, GenerationMode.NEGATIVE: 1}
EXAMPLES_OF_ADMIN: Final = {GenerationMode.POSITIVE: 3, GenerationMode.NEGATIVE: 2}


@pytest.fixture(scope="module")
def keyed(
    new_database_url: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeyedServer]:
    file = str(tmp_path_factory.mktemp("key") / "checkpoint.key")
    create_signing_key(file, "log.example")
    with keyed_server(new_database_url(), Settings(checkpoint_key_file=file)) as server:
        with server.client("admin") as client:  # plans beside the keys of these names
            for plan in ("victim", "rotated"):
                client.put(f"/v1/plans/{plan}", json={}).raise_for_status()
        yield server


@pytest.fixture(scope="module")
def calls(keyed: KeyedServer) -> list[Any]:
    """The calls that the page describes, but for the one that does not end."""
    with keyed.client(None) as client:
        document = client.get("/schema").json()
    found = []
    for one in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(one, Ok), one
        found.append(one.ok())
    assert ENDLESS in {call.path for call in found}
    return [call for call in found if call.path != ENDLESS]


@pytest.fixture
def session(role: str | None) -> Iterator[requests.Session]:
    """Send requests with the key of a role; None: without a key."""
    with requests.Session() as session:
        if role is not None:
            session.headers["Authorization"] = f"Bearer {secret(role)}"
        yield session


class Existing:
    """Values that mean something on the server, in place of generated ones."""

    def __init__(self, keyed: KeyedServer) -> None:
        # Others with the names of keys, since the paths of all have the parameter `name`.
        admin = keyed.clients["admin"]
        admin.put("/v1/plans/rotated", json={"running": 5}).raise_for_status()
        for name in ("victim", "rotated"):
            schedule = {"user_id": ALICE, "kind": ECHO, **HOURLY}
            admin.put(f"/v1/schedules/{name}", json=schedule).raise_for_status()
            admin.put(f"/v1/callbacks/{name}", json=CALLBACK).raise_for_status()
        self._values: dict[str, Iterator[Any]] = {
            "job_id": cycle([*keyed.alices, *keyed.bobs]),
            "user_id": cycle([ALICE, BOB]),
            "kind": cycle([ECHO]),
            "worker": cycle([WORKER]),
            "as_of": cycle(["30"]),
            "wait_seconds": cycle([0.01]),
            "from": cycle([at(-5 * 3600).isoformat()]),
            "until": cycle([NOW.isoformat()]),
        }

    def put_into(self, case: Case[Any]) -> None:
        """Replace the values of a request, and leave its API key to the session."""
        case.headers.pop("Authorization", None)
        if "name" in case.path_parameters:
            case.path_parameters["name"] = "victim" if case.method == "DELETE" else "rotated"
        if case.method == "PUT" and isinstance(case.body, dict):
            valid = {"/v1/schedules/{name}": HOURLY, "/v1/callbacks/{name}": CALLBACK}
            case.body |= valid.get(case.path, {"running": None})
        for values in (case.path_parameters, case.query, case.body):
            if isinstance(values, dict):
                for name in values.keys() & self._values.keys():
                    values[name] = next(self._values[name])


def send_cases(
    call: Any, mode: GenerationMode, examples_max: int, send: Callable[[Case[Any]], None]
) -> None:
    """Send requests of a call, the same ones each time."""

    @settings(
        max_examples=examples_max,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=call.as_strategy(generation_mode=mode))
    def send_one(case: Case[Any]) -> None:
        send(case)

    send_one()


# Schemathesis uses the module `random`, which Hypothesis seeds.
@pytest.mark.filterwarnings(
    "ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning"
)
# The roles differ in what they may ask for; what the database answers is seen with one of them.
@pytest.mark.parametrize(
    ("backend", "role"),
    [
        *([] if OTHER_SERVER else [("sqlite", role) for role in [*ROLES, None]]),
        ("mariadb", "admin"),
    ],
    indirect=["backend"],
)
def test_every_answer_is_one_that_the_page_describes(
    keyed: KeyedServer, calls: list[Any], session: requests.Session, role: str | None
) -> None:
    existing = Existing(keyed)
    successes: Counter[str] = Counter()

    def send(case: Case[Any]) -> None:
        answer = case.call(base_url=keyed.server.url, session=session, timeout=60)
        successes[case.operation.label] += answer.status_code < 400
        case.validate_response(answer, checks=CHECKS)

    def send_existing(case: Case[Any]) -> None:
        existing.put_into(case)
        send(case)

    examples = EXAMPLES_OF_ADMIN if role == "admin" else EXAMPLES
    for call in calls:
        for mode, sends in (
            (GenerationMode.POSITIVE, send_existing),
            (GenerationMode.NEGATIVE, send),
        ):
            if mode is GenerationMode.POSITIVE or call.body or call.query or call.path_parameters:
                send_cases(call, mode, examples[mode], sends)
    if role == "admin":  # so that successful answers were checked too
        assert sorted(label for label in successes if not successes[label]) == [TILES, *OUTCOMES]


@pytest.mark.parametrize("role", [*ROLES, None])
def test_the_call_that_does_not_end_answers_as_the_page_describes(
    keyed: KeyedServer, role: str | None
) -> None:
    with keyed.client(role) as client:
        described = client.get("/schema").json()["paths"][ENDLESS]["get"]["responses"]
        for query, event_id in (("", "30"), ("?after=30", ""), ("?aftr=1", ""), ("", "no number")):
            headers = {"Last-Event-ID": event_id} if event_id else {}
            with client.stream("GET", ENDLESS + query, headers=headers) as answer:
                media_type = answer.headers["Content-Type"].partition(";")[0]
                assert media_type in described[str(answer.status_code)]["content"], query
                expected = {None: {401}, "worker": {403}}.get(role, {200, 400})
                assert answer.status_code in expected
