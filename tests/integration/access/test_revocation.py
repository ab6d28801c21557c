"""A revoked key: refused by every server, for writes at once and for reads within a second."""

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from adapters.settings import Settings
from domain.language.errors import KeyNotValid, LogUnavailable
from domain.language.events import Role, WrongKeysRefused
from tests.support.core import execute_now, log_of, service
from tests.support.keys import by, create_key, revoke_key, rotate_key, secret
from tests.support.server import REQUEST_SECONDS_MAX, AppServer
from tests.support.stories import submit
from tests.support.waiting import wait_until

READ_SECONDS_MAX = 1.0  # the promise
LATE_SECONDS = 5.0  # a machine that is busy with other tests may be late by as much

MANY = Settings(user_limit=1_000_000, global_limit=1_000_000)


@pytest.fixture
def servers(database_url: str) -> Iterator[tuple[AppServer, AppServer]]:
    with AppServer(database_url, MANY) as one, AppServer(database_url, MANY) as other:
        execute_now(one.fairlog, create_key("root", Role.ADMIN))
        execute_now(one.fairlog, create_key("ci", any_user=True))
        yield one, other


def client_of(server: AppServer, seed: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {secret(seed)}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=REQUEST_SECONDS_MAX)


def test_a_key_works_on_another_server_at_once(servers: tuple[AppServer, AppServer]) -> None:
    one, other = servers
    with client_of(one, "root") as root:
        created = root.post("/v1/keys", json={"name": "new", "role": "reader"})
    assert created.status_code == 201
    headers = {"Authorization": f"Bearer {created.json()['secret']}"}
    for server in (one, other):
        assert httpx.get(f"{server.url}/v1/stats", headers=headers).status_code == 200


def test_a_revoked_key_writes_nothing_more_and_soon_reads_nothing_more(
    servers: tuple[AppServer, AppServer],
) -> None:
    one, other = servers
    stop = threading.Event()
    answered: list[tuple[float, int, bool]] = []  # when it was sent, the status, and if it wrote

    def use(number: int) -> None:
        with client_of(other, "ci") as client:
            while not stop.is_set():
                sent = time.monotonic()
                if number % 2:
                    body = {"user_id": "a", "kind": "echo", "payload": f"{number}-{sent}"}
                    answer = client.post("/v1/jobs", json=body)
                else:
                    answer = client.get("/v1/stats")
                answered.append((sent, answer.status_code, bool(number % 2)))
                time.sleep(0.02)  # about 200 requests a second in all

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(answered) > 40, "the key is used")
        with client_of(one, "root") as root:
            assert root.delete("/v1/keys/ci").status_code == 200
        revoked_at = time.monotonic()
        wait_until(
            lambda: any(sent > revoked_at + READ_SECONDS_MAX for sent, _, _ in answered),
            "the key is used after its end",
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    before = [status for sent, status, _ in answered if sent < revoked_at - LATE_SECONDS]
    assert set(before) <= {200, 202}
    writes = {status for sent, status, is_write in answered if is_write and sent > revoked_at}
    assert writes <= {401, 429}  # 429: too many wrong keys from one address
    reads = [
        status
        for sent, status, is_write in answered
        if not is_write and sent > revoked_at + READ_SECONDS_MAX
    ]
    assert set(reads) <= {401, 429}


def test_streams_and_waiting_claims_end_with_their_key(
    servers: tuple[AppServer, AppServer],
) -> None:
    one, other = servers
    execute_now(one.fairlog, create_key("w", Role.WORKER))
    execute_now(one.fairlog, create_key("r", Role.READER))
    ended: dict[str, object] = {}

    def follow() -> None:
        with client_of(other, "r") as client, client.stream("GET", "/v1/stream") as answer:
            assert answer.status_code == 200
            for _ in answer.iter_bytes():
                pass
            ended["stream"] = True

    def wait() -> None:
        with client_of(other, "w") as client:
            body = {"worker": "w", "wait_seconds": 30, "claim_id": "c"}
            ended["claim"] = client.post("/v1/claims", json=body).status_code

    threads = [threading.Thread(target=run) for run in (follow, wait)]
    for thread in threads:
        thread.start()
    wait_until(lambda: other.connections_waiting == 2, "both wait")
    execute_now(one.fairlog, revoke_key("w"))
    execute_now(one.fairlog, revoke_key("r"))
    for thread in threads:
        thread.join()
    assert ended == {"stream": True, "claim": 401}


def test_the_earlier_secret_ends_after_the_overlap(servers: tuple[AppServer, AppServer]) -> None:
    one, other = servers
    with client_of(one, "root") as root:
        rotated = root.post("/v1/keys/ci/rotate", json={"overlap_seconds": 0.5})
        assert rotated.status_code == 200
        assert [one["until"] is None for one in rotated.json()["key"]["secrets"]] == [False, True]
    headers = {"Authorization": f"Bearer {rotated.json()['secret']}"}
    assert httpx.get(f"{other.url}/v1/stats", headers=headers).status_code == 200
    with client_of(other, "ci") as client:
        wait_until(lambda: client.get("/v1/stats").status_code == 401, "the overlap has ended")
    assert httpx.get(f"{other.url}/v1/stats", headers=headers).status_code == 200


def test_a_server_without_keys_needs_none_until_the_first_is_created(database_url: str) -> None:
    with AppServer(database_url, MANY) as server:
        assert server.client.get("/v1/stats").status_code == 200
        refused = server.client.post("/v1/keys", json={"name": "root", "role": "admin"})
        assert refused.status_code == 401
        assert "fairlog keys create" in refused.json()["detail"]
        execute_now(server.fairlog, create_key("root", Role.ADMIN))
        wait_until(lambda: server.client.get("/v1/stats").status_code == 401, "a key is needed")
        for path in ("/livez", "/healthz", "/readyz", "/schema/openapi.json"):
            assert server.client.get(path).status_code == 200
        assert server.client.get("/metrics").status_code == 401
        execute_now(server.fairlog, revoke_key("root"))
        with client_of(server, "root") as client:
            wait_until(lambda: client.get("/v1/stats").status_code == 401, "the key has ended")
        assert server.client.get("/v1/stats").status_code == 401  # one is needed all the same


def test_keys_can_be_required_before_there_is_one(database_url: str) -> None:
    settings = Settings(require_keys=True, public_metrics=True)
    with AppServer(database_url, settings) as server:
        assert server.client.get("/v1/stats").status_code == 401
        assert server.client.get("/metrics").status_code == 200


def test_no_key_is_accepted_while_the_keys_cannot_be_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AppServer(database_url, MANY) as server:
        execute_now(server.fairlog, create_key("r", Role.READER))
        with client_of(server, "r") as client:
            assert client.get("/v1/stats").status_code == 200
            monkeypatch.setattr("entrypoints.service.key_ring.STALE_SECONDS", 0.0)
            ring = server.fairlog.key_ring
            read = ring._read

            async def away(_: object) -> object:
                raise LogUnavailable("The database does not answer.")

            ring._read = away  # type: ignore[assignment]  # a database that does not answer
            wait_until(lambda: client.get("/v1/stats").status_code == 503, "no key is accepted")
            ring._read = read
            assert client.get("/v1/stats").status_code == 200


def test_a_key_is_checked_before_the_body_is_read(servers: tuple[AppServer, AppServer]) -> None:
    one, _ = servers
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 65_536
            yield bytes(65_536)

    with contextlib.suppress(httpx.HTTPError):
        answer = httpx.post(f"{one.url}/v1/jobs", content=endless())
        assert answer.status_code == 401
    garbage = httpx.post(f"{one.url}/v1/jobs", content=b"{not json")
    assert garbage.status_code == 401


def test_a_caller_is_refused_by_the_writer_too(servers: tuple[AppServer, AppServer]) -> None:
    one, other = servers
    execute_now(one.fairlog, rotate_key("ci", "second", 0.0))
    with pytest.raises(KeyNotValid):
        execute_now(other.fairlog, by("ci", submit()))
    execute_now(other.fairlog, by("ci", submit(), "second"))


def test_wrong_keys_are_recorded_as_one_count(database_url: str) -> None:
    with AppServer(database_url, MANY) as server:
        execute_now(server.fairlog, create_key("root", Role.ADMIN))
        for number in range(40):
            headers = {"Authorization": f"Bearer {secret(str(number))}"}
            assert httpx.get(f"{server.url}/v1/stats", headers=headers).status_code in {401, 429}
    with service(database_url) as fairlog:  # the server reports the rest when it stops
        reports = [one.event for one in log_of(fairlog) if isinstance(one.event, WrongKeysRefused)]
    assert sum(report.count for report in reports) == 40
    assert len(reports) <= 2
    assert {report.addresses for report in reports} == {1}
