"""Callback endpoints behind API keys: they are told the ends of jobs of all users, so a key that is
for some users neither sees nor changes them.
"""

import pytest

from domain.language.events import Role
from tests.support.keyed_server import BOB, KeyedServer
from tests.support.keys import create_key
from tests.support.server import problem

URL = "https://a.example/M4RK3R"


def test_a_key_that_is_for_some_users_neither_sees_nor_changes_endpoints(
    keyed: KeyedServer,
) -> None:
    body = {"url": URL, "users": ["bob"]}
    operator = keyed.clients["operator"]
    operator.put("/v1/callbacks/orders", json=body).raise_for_status()
    keyed.do(create_key("bobs-reader", Role.READER, users=(BOB,)))
    with keyed.client("bobs-reader") as reader:
        for client in (reader, keyed.clients["bob"]):
            for path in ("/v1/callbacks", "/v1/callbacks/orders", "/callbacks"):
                answer = client.get(path)
                assert answer.status_code == 403
                assert URL not in answer.text
            for method in ("PUT", "DELETE"):
                answer = client.request(method, "/v1/callbacks/orders", json=body)
                assert "lacks the right: operate" in problem(answer, 403)["detail"]
    assert operator.get("/v1/callbacks/orders").json()["url"] == URL
    operator.delete("/v1/callbacks/orders").raise_for_status()


@pytest.mark.one_database
@pytest.mark.parametrize("role", ["operator", "admin"])
@pytest.mark.parametrize("scope", [{"users": ["bob"]}, {"user_prefix": "bo"}, {"kinds": ["echo"]}])
def test_no_key_that_may_change_endpoints_is_for_some_users_or_kinds(
    keyed: KeyedServer, role: str, scope: dict[str, object]
) -> None:
    body = {"name": "limited", "role": role} | scope
    answer = keyed.clients["admin"].post("/v1/keys", json=body)
    assert f"with the role {role} is for all" in problem(answer, 400)["detail"]
