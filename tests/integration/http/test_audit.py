import hashlib
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support.clock import ManualClock
from tests.support.server import audit, claim, problem, submit


def positions(client: httpx.Client, **filters: Any) -> list[int]:
    return [event["position"] for event in audit(client, **filters)]


def page(client: httpx.Client, **filters: Any) -> dict[str, Any]:
    answer = client.get("/v1/audit", params=filters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def tell_a_story(client: httpx.Client, clock: ManualClock) -> None:
    """Ten events, one second between the commands."""
    ada = submit(client, "ada")["id"]  # 1, 2 at :00
    clock.advance(1)
    submit(client, "bob")  # 3, 4 at :01
    clock.advance(1)
    claim(client, 2)  # 5, 6 at :02
    clock.advance(1)
    client.post(f"/v1/jobs/{ada}/complete", json={"attempt": 1, "result": "r"})  # 7 at :03
    clock.advance(1)
    submit(client, "ada", payload=2)  # 8, 9 at :04
    clock.advance(1)
    client.put("/v1/limits/ada", json={"limit": 5})  # 10 at :05


def test_an_event_is_told_whole(client: httpx.Client) -> None:
    submit(client, "ada", payload="p")
    decided, submitted = page(client)["events"]
    assert decided | {"hash": None} == {
        "position": 1,
        "type": "RateLimitDecided",
        "version": 1,
        "user_id": "ada",
        "job_id": 2,
        "recorded_at": "2026-01-31T12:00:00Z",
        "by": None,
        "data": {
            "type": "RateLimitDecided",
            "user_id": "ada",
            "scope": "user",
            "allowed": True,
            "used": 1,
            "limit": 600,
            "window_start": "2026-01-31T12:00:00Z",
            "window_seconds": 60,
            "global_used": 1,
            "global_limit": 6000,
        },
        "hash": None,
    }
    assert submitted["data"]["payload_sha256"] == hashlib.sha256(b'"p"').hexdigest()
    assert submitted["data"]["payload_bytes"] == 3


def test_anybody_can_check_the_chain_of_hashes(client: httpx.Client, clock: ManualClock) -> None:
    """Compute the chain by the rule that `domain/log/chain.py` states, without our code."""
    tell_a_story(client, clock)
    answer = client.get("/v1/audit").content
    previous = bytes(32)
    for event in client.get("/v1/audit").json()["events"]:
        data = _data_of(answer, event["position"])
        fields = [
            event["position"].to_bytes(8, "big"),
            event["version"].to_bytes(8, "big"),
            event["type"].encode(),
            None if event["user_id"] is None else event["user_id"].encode(),
            None if event["job_id"] is None else event["job_id"].to_bytes(8, "big"),
            _microseconds(event["recorded_at"]).to_bytes(8, "big"),
            data,
        ]
        entry = b"".join(
            b"\xff\xff\xff\xff" if field is None else len(field).to_bytes(4, "big") + field
            for field in fields
        )
        leaf = hashlib.sha256(b"\x00" + entry).digest()
        previous = hashlib.sha256(previous + leaf).digest()
        assert event["hash"] == previous.hex()


def _data_of(answer: bytes, position: int) -> bytes:
    """The event's bytes as they are stored: the answer holds them unchanged."""
    start = answer.index(b'"data":', answer.index(b'{"position":%d,' % position)) + len('"data":')
    return answer[start : answer.index(b',"hash":', start)]


def _microseconds(moment: str) -> int:
    seconds = datetime.fromisoformat(moment).timestamp()
    return round(seconds * 1_000_000)


def test_conditions_can_be_combined(client: httpx.Client, clock: ManualClock) -> None:
    tell_a_story(client, clock)
    assert positions(client) == list(range(1, 11))
    assert positions(client, user_id="ada") == [1, 2, 5, 7, 8, 9, 10]
    assert positions(client, job_id=2) == [1, 2, 5, 7]
    assert positions(client, type="JobSubmitted") == [2, 4, 9]
    assert positions(client, type=["JobSubmitted", "JobStarted"]) == [2, 4, 5, 6, 9]
    assert positions(client, user_id="ada", type="JobSubmitted") == [2, 9]
    assert positions(client, user_id="bob", job_id=2) == []
    combined = {
        "user_id": "ada",
        "type": ["JobSubmitted", "RateLimitDecided", "JobCompleted"],
        "since": "2026-01-31T12:00:01Z",
        "until": "2026-01-31T12:00:05Z",
    }
    assert positions(client, **combined) == [7, 8, 9]
    assert page(client, **combined, after=7, limit=1)["events"][0]["position"] == 8
    assert positions(client, **combined, job_id=9) == [8, 9]


def test_since_is_inclusive_and_until_exclusive(client: httpx.Client, clock: ManualClock) -> None:
    tell_a_story(client, clock)
    assert positions(client, since="2026-01-31T12:00:02Z") == [5, 6, 7, 8, 9, 10]
    assert positions(client, since="2026-01-31T12:00:02.000001Z") == [7, 8, 9, 10]
    assert positions(client, until="2026-01-31T12:00:02Z") == [1, 2, 3, 4]
    assert positions(client, since="2026-01-31T13:00:02+01:00", until="2026-01-31T12:00:03Z") == [
        5,
        6,
    ]
    assert positions(client, since="2027-01-01T00:00:00Z") == []
    assert positions(client, until="2020-01-01T00:00:00Z") == []
    assert positions(client, since="2026-01-31T12:00:03Z", until="2026-01-31T12:00:03Z") == []


def test_pages_go_by_position(client: httpx.Client, clock: ManualClock) -> None:
    tell_a_story(client, clock)
    first = page(client, limit=4)
    assert first["next"] == 4
    second = page(client, limit=4, after=4)
    assert [event["position"] for event in second["events"]] == [5, 6, 7, 8]
    last = page(client, limit=4, after=second["next"])
    assert [event["position"] for event in last["events"]] == [9, 10]
    assert last["next"] is None
    assert page(client, after=10) == {"events": [], "next": None}
    filtered = page(client, user_id="ada", limit=3)
    assert ([event["position"] for event in filtered["events"]], filtered["next"]) == ([1, 2, 5], 5)


def test_an_empty_log_has_no_events(client: httpx.Client) -> None:
    assert page(client) == {"events": [], "next": None}
    assert page(client, since="2026-01-31T12:00:00Z", user_id="ada") == {"events": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        "type=Nothing",
        "type=JobSubmitted&type=Nothing",
        "type=",
        "since=yesterday",
        "since=2026-01-31T12:00:00",
        "until=9999-12-31T23:59:59Z",
        "job_id=0",
        "job_id=9223372036854775808",
        "job_id=x",
        "user_id=",
        "user_id=%00",
        "user_id=%FF",
        "user_id=" + "u" * 256,
        "after=-1",
        "after=9223372036854775808",
        "after=x",
        "limit=0",
        "limit=1001",
        "limit=ten",
        "limit=" + "9" * 5000,
    ],
    ids=lambda query: query[:40],
)
def test_a_question_that_makes_no_sense_is_refused(shared: httpx.Client, query: str) -> None:
    problem(shared.get(f"/v1/audit?{query}"), 400)
