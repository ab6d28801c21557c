"""A page of another site cannot act through somebody's browser."""

import httpx
import pytest

from tests.support.server import submit

# Origins are checked before any database is asked.
pytestmark = pytest.mark.one_database


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
    ],
)
def test_what_another_site_sends_is_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    job = submit(client, user_id="alice", payload=1)
    answer = client.post(f"/v1/jobs/{job['id']}/cancel", headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.json()["detail"]
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_the_dashboards_own_pages_and_programs_may_act(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": own}, {}):
        job = submit(client, user_id="alice", payload=str(headers))
        assert client.post(f"/v1/jobs/{job['id']}/cancel", headers=headers).status_code == 200


def test_another_site_may_read_nothing_that_the_browser_shows_it_but_is_answered(
    client: httpx.Client,
) -> None:
    answer = client.get("/livez", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
