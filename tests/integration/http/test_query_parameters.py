"""A query parameter, a form field or a header is read in one way, or refused."""

from collections.abc import Iterator

import httpx
import pytest

from adapters.settings import Settings
from domain.language import validation
from domain.language.errors import InvalidInput
from tests.conftest import NewDatabase
from tests.support.server import AppServer, log_position, problem, submit

LONG = "9" * 5000


@pytest.fixture(scope="module")
def client(new_database_url: NewDatabase) -> Iterator[httpx.Client]:
    with AppServer(new_database_url(), Settings()) as server:
        submit(server.client)
        yield server.client


def refused(client: httpx.Client, address: str, **headers: str) -> str:
    """The sentence of a 400, as a problem or on a page."""
    answer = client.get(
        address, headers={name.replace("_", "-"): headers[name] for name in headers}
    )
    if answer.headers["Content-Type"].startswith("text/html"):
        assert answer.status_code in {200, 400}, answer.text
        assert 'role="alert"' in answer.text or answer.status_code == 400
        return answer.text
    return str(problem(answer, 400)["detail"])


@pytest.mark.parametrize(
    "address",
    [
        "/v1/stats?as_of={}",
        "/v1/jobs/2?as_of={}",
        "/v1/audit?after={}",
        "/v1/audit?limit={}",
        "/v1/audit?job_id={}",
        "/v1/jobs?cursor={}",
        "/v1/jobs?limit={}",
        "/pulse?after={}",
        "/v1/jobs/2/events?after={}",
        "/v1/jobs/2/events?limit={}",
        "/v1/stream?after={}",
        "/v1/stream?job_id={}",
        "/jobs?before={}",
        "/jobs?after={}",
        "/audit?as_of={}",
        "/audit?before={}",
        "/audit?job={}",
        "/audit/state?as_of={}",
        "/jobs/2?as_of={}",
        "/find?id={}",
    ],
)
@pytest.mark.parametrize(
    "number",
    [LONG, "-1", "%2B1", "1_0", "%D9%A2", "1.5", "1e3", "null", "None", "0x10", str(2**63)],
)
@pytest.mark.one_database  # refused before it is asked
def test_what_is_no_number_is_refused_wherever_a_query_has_one(
    client: httpx.Client, address: str, number: str
) -> None:
    assert refused(client, address.format(number))


@pytest.mark.parametrize("address", ["/v1/stream", "/pulse"])
@pytest.mark.parametrize("number", [LONG, "-1", "x", "\u0662", "1 2"])
@pytest.mark.one_database  # refused before it is asked
def test_a_last_event_id_that_is_no_position_is_refused(
    client: httpx.Client, address: str, number: str
) -> None:
    answer = client.get(address, headers={b"Last-Event-ID": number.encode()})
    assert answer.status_code == 400


def test_numbers_of_a_form_are_refused(client: httpx.Client) -> None:
    for number in (LONG, "-1", "٢", "", "1_0"):
        answer = client.post("/jobs/cancel", data={"id": number}, headers={"HX-Request": "true"})
        assert answer.status_code == 400


TIMES = (
    "2026",
    "1580000000",
    "2026-01-31",
    "2026-01-31T12:00:00",
    "20260131T120000Z",
    "2026-W05-6",
    "2026-13-01T00:00:00Z",
    "2026-01-31T25:00:00Z",
    "now",
    "null",
)


@pytest.mark.parametrize("address", ["/v1/audit?since={}", "/v1/audit?until={}"])
@pytest.mark.parametrize("time", TIMES)
def test_a_time_is_written_as_rfc_3339_writes_it(
    client: httpx.Client, address: str, time: str
) -> None:
    assert "2026-01-31T12:00:00Z" in refused(client, address.format(time))


def test_as_of_has_one_meaning_everywhere(client: httpx.Client) -> None:
    """Digits alone are a position."""
    end = log_position(client)
    for address in ("/v1/stats", "/v1/jobs/2", "/jobs/2", "/audit", "/audit/state"):
        assert f"ends at position {end}" in refused(client, f"{address}?as_of=20200101")
        for time in TIMES[2:]:
            sentence = refused(client, f"{address}?as_of={time}")
            assert "position of the log" in sentence or "with an offset" in sentence
    for text, meant in (("20200101", 20_200_101), ("0", 0), ("007", 7)):
        assert validation.as_of(text) == meant
    assert validation.as_of("2026-01-31T13:00:00+01:00") == validation.as_of("2026-01-31T12:00:00Z")
    with pytest.raises(InvalidInput):
        validation.as_of(LONG)


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("/v1/audit?job=2", "job_id"),
        ("/v1/audit?sinse=2026-01-31T12:00:00Z", "since"),
        ("/v1/audit?user=ada", "user_id"),
        ("/v1/jobs?status=done", "state"),
        ("/v1/jobs?user=ada", "user_id"),
        ("/v1/jobs?Limit=1", "limit"),
        ("/v1/jobs/2?as-of=1", "as_of"),
        ("/v1/stats?asof=1", "as_of"),
        ("/v1/stream?jobid=2", "job_id"),
        ("/v1/stream?types=JobFailed", "type"),
        ("/jobs?users=ada", "user"),
        ("/audit?as-of=1", "as_of"),
        ("/limits?usr=ada", "user"),
        ("/pulse?afer=1", "after"),
        ("/jobs/2?asof=1", "as_of"),
    ],
)
@pytest.mark.one_database  # refused before it is asked
def test_an_unknown_parameter_is_refused_and_the_nearest_one_named(
    client: httpx.Client, address: str, meant: str
) -> None:
    assert f"the nearest is {meant}." in refused(client, address)


@pytest.mark.parametrize(
    "address",
    [
        "/v1/limits?user_id=ada",
        "/v1/jobs/2/explain?x",
        "/livez?x=1",
        "/metrics?a=b",
        "/schema?q=1",
        "/jobs/dashboard?limit=3",
        "/jobs/job_status/2?x=1",
        "/fairness?x=1",
    ],
)
def test_so_is_one_where_there_is_none(client: httpx.Client, address: str) -> None:
    assert client.get(address).status_code == 400


def test_calls_that_change_something_take_no_unknown_parameter_either(client: httpx.Client) -> None:
    end = log_position(client)
    job = {"user_id": "ada", "kind": "echo", "payload": "dry"}
    problem(client.post("/v1/jobs?dry_run=true", json=job), 400)
    problem(client.post("/v1/jobs/2/cancel?attempt=1"), 400)
    assert log_position(client) == end


@pytest.mark.parametrize(
    "address",
    [
        "/v1/audit?job_id=",
        "/v1/audit?user_id=",
        "/v1/audit?type=",
        "/v1/audit?since=",
        "/v1/audit?after",
        "/v1/jobs?state=",
        "/v1/jobs?limit=",
        "/v1/jobs/2?as_of=",
        "/v1/stats?as_of=",
        "/v1/stream?job_id=",
        "/v1/stream?user_id=",
        "/v1/stream?after=",
    ],
)
@pytest.mark.one_database  # refused before it is asked
def test_an_empty_value_is_refused(client: httpx.Client, address: str) -> None:
    assert "is empty" in refused(client, address)


def test_a_value_that_may_come_once_may_not_come_twice(client: httpx.Client) -> None:
    for address in (
        "/v1/jobs?limit=1&limit=2",
        "/v1/stream?job_id=2&job_id=3",
        "/jobs?user=a&user=b",
    ):
        assert "more than once" in refused(client, address)
    answer = client.get("/v1/audit?type=JobSubmitted&type=JobStarted")
    assert answer.status_code == 200


def test_forms_of_the_dashboard_may_leave_fields_empty(client: httpx.Client) -> None:
    assert client.get("/?span=6h").status_code == 200
    for address in ("/jobs?user=&state=&kind=", "/audit?user=&job=&type=&as_of=", "/limits?user="):
        answer = client.get(address)
        assert answer.status_code == 200
        assert 'role="alert"' not in answer.text


@pytest.mark.parametrize("address", ["/v1/stream", "/pulse"])
def test_a_position_that_the_log_does_not_reach_is_told(client: httpx.Client, address: str) -> None:
    beyond = str(log_position(client) + 1)
    assert "not the log that was seen" in refused(client, address, Last_Event_ID=beyond)
    assert "not the log that was seen" in refused(client, f"{address}?after={beyond}")


@pytest.mark.parametrize("address", ["/v1/audit", "/v1/jobs/2/events"])
def test_pages_behind_the_end_of_the_log_are_told_too(client: httpx.Client, address: str) -> None:
    end = log_position(client)
    assert client.get(f"{address}?after={end}").json() == {"events": [], "next": None}
    assert "ends at position" in refused(client, f"{address}?after={end + 1}")
