"""Bad input: a 4xx problem with a sentence that helps, or stored and given back; never a 500."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from adapters.settings import Settings
from tests.conftest import NewDatabase
from tests.support.clock import LONGEST_WINDOW
from tests.support.server import (
    REQUEST_SECONDS_MAX,
    AppServer,
    audit,
    claim,
    exchange,
    log_position,
    problem,
    submit,
)

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(new_database_url: NewDatabase) -> Iterator[AppServer]:
    settings = Settings(user_limit=1_000_000, global_limit=1_000_000, window_seconds=LONGEST_WINDOW)
    with AppServer(new_database_url(), settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: AppServer) -> httpx.Client:
    return server.client


@pytest.fixture
def position(client: httpx.Client) -> int:
    """The log's end before the test."""
    return log_position(client)


def body(payload: bytes = b"1", user_id: bytes = b'"ada"', more: bytes = b"") -> bytes:
    return b'{"user_id": %s, "kind": "echo", "payload": %s%s}' % (user_id, payload, more)


def field(name: str, value: str) -> bytes:
    return body(more=f', "{name}": {value}'.encode())


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# Each is refused with 400, whether it comes alone or in a batch.
BAD_SUBMISSIONS = {
    # The shape
    "an array": b"[]",
    "a number": b"1",
    "a text": b'"text"',
    "null": b"null",
    "an empty object": b"{}",
    "without a user": b'{"payload": 1}',
    "without a payload": b'{"user_id": "ada", "kind": "echo"}',
    "an unknown field": field("colour", '"red"'),
    "a field in another case": field("Kind", '"echo"'),
    # The user
    "an empty user": body(user_id=b'""'),
    "a user of 300 characters": body(user_id=b'"' + b"u" * 300 + b'"'),
    "a user of 256 bytes": body(user_id=b'"' + b"u" * 256 + b'"'),
    "a user of 86 characters that are 258 bytes": body(user_id=('"' + "日" * 86 + '"').encode()),
    "a user that is a number": body(user_id=b"5"),
    "a user that is null": body(user_id=b"null"),
    "a user that is an object": body(user_id=b"{}"),
    "a user with a NUL": body(user_id=b'"a\\u0000"'),
    "a user with a line break": body(user_id=b'"a\\nb"'),
    "a user with a C1 control character": body(user_id=b'"a\\u0085"'),
    "a user with half a surrogate pair": body(user_id=b'"a\\ud800"'),
    "a user with the other half": body(user_id=b'"a\\udc00bcdefgh"'),
    "a user with a raw surrogate": body(user_id=b'"a\xed\xa0\x80"'),
    "a user that is no UTF-8": body(user_id=b'"a\xff"'),
    # The payload
    "a payload nested 33 deep": body(nested(33)),
    "a payload nested 900 deep": body(nested(900)),
    "a payload of objects 33 deep": body(b'{"a":' * 33 + b"1" + b"}" * 33),
    "a payload of half a surrogate pair": body(b'"\\ud83d"'),
    "a payload with half a pair in it": body(b'"a\\ud83dbcdefgh"'),
    "a payload with a half in a name": body(b'{"\\udfff": 1}'),
    "a payload with a raw surrogate": body(b'"\xed\xbf\xbf"'),
    "a payload that is no UTF-8": body(b'"\xc3"'),
    "a payload of overlong UTF-8": body(b'"\xc0\xaf"'),
    "a payload beyond Unicode": body(b'"\xf4\x90\x80\x80"'),
    "a number too large for a float": body(b"1e999"),
    "NaN": body(b"NaN"),
    "Infinity": body(b"[-Infinity]"),
    "a number of 5,000 digits": body(b"9" * 5000),
    # Wrong types and ranges
    "a kind that is a number": field("kind", "1"),
    "an empty kind": field("kind", '""'),
    "a kind of 256 bytes": field("kind", '"' + "k" * 256 + '"'),
    "a kind with a tab": field("kind", '"a\\tb"'),
    "an empty key": field("idempotency_key", '""'),
    "a key of 256 bytes": field("idempotency_key", '"' + "k" * 256 + '"'),
    "a key that is a number": field("idempotency_key", "1"),
    "a time that is none": field("run_at", '"tomorrow"'),
    "a time without an offset": field("run_at", '"2026-01-31T12:00:00"'),
    "a time that is a number": field("run_at", "1769860800"),
    "a time before 1970": field("run_at", '"1969-12-31T23:59:59Z"'),
    "a time after the year 9000": field("expires_at", '"9999-12-31T23:59:59Z"'),
    "a time in the year 1 east of Greenwich": field("run_at", '"0001-01-01T00:00:00+14:00"'),
    "an end before the beginning": body(
        more=b', "run_at": "2030-01-01T00:00:00Z", "expires_at": "2029-01-01T00:00:00Z"'
    ),
    "a time-out of 0": field("timeout_seconds", "0"),
    "a time-out below 0": field("timeout_seconds", "-1"),
    "a time-out of 1e308": field("timeout_seconds", "1e308"),
    "a time-out that is a text": field("timeout_seconds", '"5"'),
    "no attempts": field("max_attempts", "0"),
    "too many attempts": field("max_attempts", "1001"),
    "half an attempt": field("max_attempts", "1.5"),
    "attempts that are true": field("max_attempts", "true"),
    "attempts that are a text": field("max_attempts", '"3"'),
    "attempts of 2**63": field("max_attempts", str(2**63)),
    "a priority too high": field("priority", "1001"),
    "a priority of 10**30": field("priority", str(10**30)),
    "a priority that is null": field("priority", "null"),
}

# Each is refused with 400; as a part of a batch it would make all of it no JSON.
BAD_BODIES = {
    "nothing": b"",
    "spaces": b"   ",
    "an open brace": b"{",
    "half a submission": body()[:20],
    "two submissions": body() + body(),
    "text behind it": body() + b" x",
    "a comma too many": b'{"user_id": "ada", "kind": "echo", "payload": 1,}',
    "single quotes": b"{'user_id': 'ada', 'payload': 1}",
    "a comment": b'{"user_id": "ada", /* me */ "payload": 1}',
    "a leading zero": body(b"01"),
    "a hexadecimal number": body(b"0x10"),
    "a raw NUL in a text": body(b'"a\x00b"'),
    "a raw line break in a text": body(b'"a\nb"'),
    "an unknown escape": body(b'"\\x41"'),
    "a byte order mark": b"\xef\xbb\xbf" + body(),
    "UTF-16": body().decode().encode("utf-16"),
    "binary": bytes(range(256)),
    "form fields": b"user_id=ada&payload=1",
    "JSON nested 5,000 deep": body(nested(5_000)),
    "JSON nested 1,000,000 deep": body(b"[" * 1_000_000),
    "objects nested 5,000 deep": body(b'{"a":' * 5_000 + b"1" + b"}" * 5_000),
}


def named(cases: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("content", cases.values(), ids=cases.keys())


@named(BAD_SUBMISSIONS | BAD_BODIES)
@pytest.mark.one_database  # refused before it is asked
def test_a_bad_submission_is_refused_and_leaves_nothing(
    client: httpx.Client, position: int, content: bytes
) -> None:
    problem(client.post("/v1/jobs", content=content, headers=JSON), 400)
    assert log_position(client) == position


@named(BAD_SUBMISSIONS)
def test_a_bad_submission_costs_its_neighbours_in_a_batch_nothing(
    client: httpx.Client, position: int, content: bytes
) -> None:
    before, after = (body(b'"%s %d"' % (side, position)) for side in (b"before", b"after"))
    batch = b'{"jobs": [' + b",".join((before, content, after)) + b"]}"
    answer = client.post("/v1/jobs/batch", content=batch, headers=JSON)
    assert answer.status_code == 200, answer.text
    outcomes = answer.json()["jobs"]
    assert [one["status"] for one in outcomes] == [202, 400, 202]
    for one in (outcomes[0], outcomes[2]):
        assert client.get(f"/v1/jobs/{one['job']['id']}").status_code == 200


@named(BAD_BODIES)
@pytest.mark.one_database  # refused before it is asked
def test_a_batch_that_is_no_json_is_refused_whole(
    client: httpx.Client, position: int, content: bytes
) -> None:
    batch = b'{"jobs": [' + b",".join((body(), content, body())) + b"]}"
    problem(client.post("/v1/jobs/batch", content=batch, headers=JSON), 400)
    assert log_position(client) == position


@named(
    {
        "an array": b"[]",
        "an object": b"{}",
        "no array": b'{"jobs": {}}',
        "null": b'{"jobs": null}',
        "an unknown field": b'{"jobs": [], "colour": "red"}',
        "nothing": b"",
    }
)
def test_a_batch_that_is_none_is_refused(client: httpx.Client, content: bytes) -> None:
    problem(client.post("/v1/jobs/batch", content=content, headers=JSON), 400)


def test_bad_submissions_cost_those_that_come_at_the_same_time_nothing(
    server: AppServer, position: int
) -> None:
    """They all wait for the same writer, and a batch of it has both."""
    good = [body(b'"good %d"' % number) for number in range(60)]
    bad = list((BAD_SUBMISSIONS | BAD_BODIES).values())

    async def send_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(
            base_url=server.url, limits=limits, timeout=REQUEST_SECONDS_MAX
        ) as client:
            return await asyncio.gather(
                *(
                    client.post("/v1/jobs", content=content, headers=JSON)
                    for pair in zip(good, bad, strict=False)
                    for content in pair
                )
            )

    answers = asyncio.run(send_all())
    assert [answer.status_code for answer in answers] == [202, 400] * len(good)
    submitted = audit(server.client, type="JobSubmitted", after=position)
    stored = {event["job_id"] for event in submitted if event["position"] > position}
    assert {answer.json()["id"] for answer in answers[::2]} <= stored


# Sizes


@pytest.mark.parametrize(
    "filling", ["x", '"', "'", "\\", "\x00", "é", "日", "😀", "\x7f"], ids=ascii
)
def test_a_payload_of_a_mebibyte_is_stored_and_one_byte_more_is_refused(
    client: httpx.Client, filling: str
) -> None:
    """Counted as compact JSON, however the client wrote it."""
    each = len(json.dumps(filling, ensure_ascii=False).encode()) - 2
    room = MIB - 2
    largest = filling * (room // each) + "x" * (room % each)
    job = submit(client, payload=largest)
    assert client.get(f"/v1/jobs/{job['id']}").json()["payload"] == largest
    refused = client.post(
        "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": largest + "x"}
    )
    assert "1048577 bytes" in problem(refused, 413)["detail"]


def test_white_space_does_not_count(client: httpx.Client) -> None:
    spacious = b"[" + b" " * (2 * MIB) + b"1]"
    answer = client.post("/v1/jobs", content=body(spacious), headers=JSON)
    assert (answer.status_code, answer.json()["payload"]) == (202, [1])


def test_a_body_beyond_any_payload_is_refused(client: httpx.Client) -> None:
    huge = b'"' + b"x" * (9 * MIB) + b'"'
    problem(client.post("/v1/jobs", content=body(huge), headers=JSON), 413)


@pytest.mark.parametrize("call", ["complete", "fail"])
def test_a_result_or_an_error_of_a_mebibyte_is_stored_and_one_byte_more_is_refused(
    client: httpx.Client, call: str
) -> None:
    name = {"complete": "result", "fail": "error"}[call]
    job = submit(client, kind=call)["id"]
    claim(client, kinds=[call])
    address = f"/v1/jobs/{job}/{call}"
    problem(client.post(address, json={"attempt": 1, name: "x" * (MIB - 1)}), 413)
    assert client.post(address, json={"attempt": 1, name: "x" * (MIB - 2)}).status_code == 200
    assert client.get(f"/v1/jobs/{job}").json()[name] == "x" * (MIB - 2)


@pytest.mark.parametrize("filling", ["x", '"'], ids=["plain", "escaped twice over"])
def test_sixteen_payloads_of_a_mebibyte_at_once_go_through(
    client: httpx.Client, backend: str, server: AppServer, filling: str
) -> None:
    if backend == "mariadb":
        with server.fairlog.database.read() as connection:
            packet = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
            assert packet == 16 * MIB
    length = (MIB - 2 - 4) // len(json.dumps(filling)[1:-1])
    payloads = [filling * length + f"{number:04}" for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(lambda payload: submit(client, "big", payload=payload), payloads))
    for job, payload in zip(jobs, payloads, strict=True):
        assert client.get(f"/v1/jobs/{job['id']}").json()["payload"] == payload


# Identifiers, byte for byte

UNUSUAL_IDS = [
    "👩‍👩‍👧‍👦",
    "😀" * 63,
    "עברית",
    "العربية",
    "\u202eabc",
    "日" * 85,
    "e\u0301",
    "é",
    "u" * 255,
    " ",
    "a b",
    "'; DROP TABLE events; --",
    "%s%(x)s?:y",
    "..",
    "a/b",
    '"quoted"',
    "null",
    "0",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "\u2028",
    "\u00ad",
    "<b>&amp;",
]


@pytest.mark.parametrize("user", UNUSUAL_IDS, ids=ascii)
def test_an_unusual_user_id_is_given_back_byte_for_byte(client: httpx.Client, user: str) -> None:
    job = submit(client, user, kind=user, idempotency_key=user)
    assert (job["user_id"], job["kind"], job["idempotency_key"]) == (user, user, user)
    [listed] = client.get("/v1/jobs", params={"user_id": user}).json()["jobs"]
    assert listed["user_id"].encode() == user.encode()
    events = audit(client, user_id=user)
    assert {event["user_id"] for event in events} == {user}
    [given] = claim(client, kinds=[user], worker=user, claim_id=user)
    assert (given["id"], given["user_id"], given["kind"]) == (job["id"], user, user)
    assert client.get(f"/v1/jobs/{job['id']}").json()["worker"] == user


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Case", "case"),
        ("space", "space "),
        ("gap", " gap"),
        ("né", "ne\u0301"),
        ("ss", "ß"),
        ("Å", "\u212b"),
        ("I", "\u0131"),
        ("nil", "NIL"),
        ("1", "01"),
        ("ﬁ", "fi"),
        ("tie", "ti\u00ade"),
        ("a", "a\ufe0f"),
    ],
    ids=ascii,
)
def test_ids_that_differ_in_a_byte_are_two_users(
    client: httpx.Client, one: str, other: str
) -> None:
    jobs = {
        user: submit(client, user, payload="same", idempotency_key="k") for user in (one, other)
    }
    assert jobs[one]["id"] != jobs[other]["id"]
    for user in (one, other):
        listed = client.get("/v1/jobs", params={"user_id": user}).json()["jobs"]
        assert [job["id"] for job in listed] == [jobs[user]["id"]]
        assert (
            client.get("/v1/audit", params={"user_id": user}).json()["events"][0]["user_id"] == user
        )
    client.put("/v1/limits/" + quote(one), json={"running": 7})
    answer = client.get("/v1/limits/" + quote(other)).json()
    assert (answer["used"], answer["running"]) == (1, None)


@pytest.mark.parametrize(("one", "other"), [("Key", "key"), ("key", "key "), ("é", "e\u0301")])
def test_keys_and_kinds_that_differ_in_a_byte_are_two(
    client: httpx.Client, one: str, other: str
) -> None:
    user = f"keys {one!a} {other!a}"
    first = submit(client, user, idempotency_key=one, kind=one)
    second = submit(client, user, idempotency_key=other, kind=other)
    assert first["id"] != second["id"]
    assert [job["id"] for job in claim(client, 9, kinds=[other])] == [second["id"]]


# Numbers and names that occur twice


def test_of_a_field_that_comes_twice_the_last_holds(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/jobs",
        content=b'{"user_id": "eve", "kind": "echo", "payload": 1, "user_id": "2nd",'
        b' "payload": {"a": 1, "a": 2}}',
        headers=JSON,
    )
    assert answer.status_code == 202
    assert (answer.json()["user_id"], answer.json()["payload"]) == ("2nd", {"a": 2})


@pytest.mark.parametrize(
    "number",
    ["123456789012345678901234567890", "-0.0", "1e308", "5e-324", "0.1", "1e2", "9007199254740993"],
)
def test_an_unusual_number_keeps_its_value(client: httpx.Client, number: str) -> None:
    answer = client.post("/v1/jobs", content=body(number.encode()), headers=JSON)
    assert repr(answer.json()["payload"]) == repr(json.loads(number))


# Addresses

POSITION_MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("job_id", "status"),
    [
        ("0", 400),
        ("-1", 400),
        (str(2**63), 400),
        (str(2**64), 400),
        ("9" * 39, 400),
        (str(POSITION_MAX), 404),
        ("9" * 41, 404),
        ("9" * 5000, 404),
        ("one", 404),
        ("1.0", 404),
        ("1e3", 404),
        ("0x1", 404),
        ("%20", 404),
        ("%00", 404),
        ("%F0%9F%98%80", 404),
        ("null", 404),
    ],
    ids=lambda value: str(value)[:25],
)
def test_an_id_that_is_no_jobs_is_refused(client: httpx.Client, job_id: str, status: int) -> None:
    for call in ("", "/events"):
        problem(client.get(f"/v1/jobs/{job_id}{call}"), status)
    for call, sent in (
        ("cancel", None),
        ("retry", None),
        ("complete", {"attempt": 1}),
        ("fail", {"attempt": 1, "error": "e"}),
    ):
        problem(client.post(f"/v1/jobs/{job_id}/{call}", json=sent), status)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=1.5",
        "limit=" + "9" * 5000,
        "cursor=",
        "cursor=x",
        "cursor=-1",
        "cursor=9223372036854775808",
        "cursor=" + "9" * 5000,
        "cursor=%D9%A3",
        "cursor=1%00",
        "state=lost",
        "state=",
        "state=DONE",
        "state=%FF",
        "user_id=",
        "user_id=%00",
        "user_id=a%0Ab",
        "user_id=%FF",
        "user_id=%ED%A0%80",
        "user_id=%C0%AF",
        "user_id=" + "u" * 256,
        "nonsense=%FF",
    ],
    ids=lambda query: query[:30],
)
@pytest.mark.one_database  # refused before it is asked
def test_a_list_that_cannot_be_is_refused(client: httpx.Client, query: str) -> None:
    problem(client.get(f"/v1/jobs?{query}"), 400)


@pytest.mark.parametrize(
    "address",
    [
        b"/v1/limits/%FF",
        b"/v1/limits/%ED%A0%80",
        b"/v1/limits/a%C3",
        b"/v1/limits/a\xff",
        b"/v1/jobs?user_id=\xff",
        b"/v1/audit?user_id=%C0%80",
        b"/v1/jobs/2\xff/events",
        b"/\xff\xfe",
        b"/v1/jobs?%FF=1",
        b"/schema?%FF",
        b"/livez/%FF",
    ],
)
def test_an_address_that_is_no_utf8_is_refused(server: AppServer, address: bytes) -> None:
    answer = exchange(
        server.port,
        b"GET " + address + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    assert answer.status_code in {400, 404}, answer.text


# Bodies where there should be none, and none where there should be one


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/v1/jobs/batch"),
        ("POST", "/v1/claims"),
        ("POST", "/v1/claims/heartbeat"),
        ("POST", "/v1/claims/complete"),
        ("POST", "/v1/claims/return"),
        ("POST", "/v1/jobs/2/complete"),
        ("POST", "/v1/jobs/2/fail"),
        ("PUT", "/v1/limits"),
        ("PUT", "/v1/limits/ada"),
        ("PUT", "/v1/kinds/echo"),
        ("POST", "/jobs/submit_job"),
    ],
)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"\\ud800"',
        b'"\xff"',
        b'{"\xff": 1}',
        nested(5000),
        b'{"colour": "red"}',
    ],
    ids=lambda content: str(content)[:20],
)
@pytest.mark.one_database  # refused before it is asked
def test_every_call_refuses_a_body_that_is_not_its_own(
    client: httpx.Client, method: str, address: str, content: bytes
) -> None:
    problem(client.request(method, address, content=content, headers=JSON), 400)


def test_a_body_without_a_content_type_is_read_as_json(client: httpx.Client) -> None:
    assert client.post("/v1/jobs", content=body(b'"no type"')).status_code == 202


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing(
    server: AppServer, position: int
) -> None:
    content = body(b'"cut"')
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + content[:-1])
    submit(server.client, payload=f"after the cut at {position}")
    assert log_position(server.client) == position + 2


@pytest.mark.parametrize(
    ("address", "content"),
    [
        ("/v1/claims/heartbeat", {"worker": "w", "jobs": [{"id": 0, "attempt": 1}]}),
        ("/v1/claims/heartbeat", {"worker": "w", "jobs": [{"id": 2**63, "attempt": 1}]}),
        ("/v1/claims/heartbeat", {"worker": "w", "jobs": [{"id": 2}]}),
        ("/v1/claims/heartbeat", {"worker": "", "jobs": []}),
        ("/v1/claims/heartbeat", {"worker": "w", "jobs": [{"id": 2, "attempt": 1}] * 1001}),
        ("/v1/claims/complete", {"worker": "w\n", "jobs": []}),
        ("/v1/claims/complete", {"worker": "w", "jobs": {}}),
        ("/v1/claims/return", {"worker": "w", "jobs": [{"id": -1, "attempt": 1}]}),
        ("/v1/jobs/2/complete", {"attempt": "1"}),
        ("/v1/jobs/2/complete", {"attempt": None}),
        ("/v1/jobs/2/complete", {"attempt": 1.5}),
        ("/v1/jobs/2/fail", {"attempt": 1}),
        ("/v1/jobs/2/fail", {"attempt": 1, "error": "e", "retry": "no"}),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.one_database  # refused before it is asked
def test_workers_that_report_wrongly_are_refused(
    client: httpx.Client, address: str, content: dict[str, Any]
) -> None:
    problem(client.post(address, json=content), 400)


@pytest.mark.parametrize("depth", [33, 200, 5000])
def test_a_result_or_an_error_nested_too_deep_is_refused(client: httpx.Client, depth: int) -> None:
    kind = f"deep {depth}"
    job = submit(client, kind=kind)["id"]
    claim(client, kinds=[kind])
    for call, name in ((b"complete", b"result"), (b"fail", b"error")):
        problem(
            client.post(
                f"/v1/jobs/{job}/{call.decode()}",
                content=b'{"attempt": 1, "%s": %s}' % (name, nested(depth)),
                headers=JSON,
            ),
            400,
        )
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "running"
