"""Schedules behind API keys: a key that is for some users sees theirs alone."""

from tests.support.keyed_server import MARKER, KeyedServer
from tests.support.server import problem


def test_a_key_sees_the_schedules_of_its_users_and_kinds(keyed: KeyedServer) -> None:
    operator = keyed.clients["operator"]
    fields = {"every_seconds": 31_000_000, "payload": MARKER}
    for name, user in (("of alice", "alice"), ("of bob", "bob")):
        body = {"user_id": user, "kind": "echo", **fields}
        operator.put(f"/v1/schedules/{name}", json=body).raise_for_status()
    assert {"of alice", "of bob"} <= {
        one["name"] for one in operator.get("/v1/schedules").json()["schedules"]
    }
    bob = keyed.clients["bob"]
    names = {one["name"] for one in bob.get("/v1/schedules").json()["schedules"]}
    assert names == {"of bob"}
    assert bob.get("/v1/schedules/of bob").json()["payload"] == MARKER
    problem(bob.get("/v1/schedules/of alice"), 404)
    page = bob.get("/schedules").text
    assert "of bob" in page
    assert "of alice" not in page
    for method, path in (("PUT", ""), ("DELETE", ""), ("POST", "/trigger")):
        answer = bob.request(method, f"/v1/schedules/of bob{path}", json=body)
        assert "lacks the right" in problem(answer, 403)["detail"]
